"""One target under Atheris, in a process of its own: ``python -m tests.fuzz.atheris_child TARGET [options]``."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Ends by itself only with a finding, or when libFuzzer's ``-max_total_time`` is over."""
    name, *options = sys.argv[1:]
    # Only what is imported here, for the first time in this process, tells Atheris which lines an input has reached.
    with atheris.instrument_imports(include=["sidecar", "router", "millirank"]):
        from tests.fuzz.targets import TARGETS
    probe = TARGETS[name].probe

    def one(data: bytes) -> None:
        probe(data)

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
