"""``python -m tests.bench``: run the measurements, show tables, write JSON."""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from rich.console import Console

from tests.bench import decision, install, models, passthrough, start
from tests.bench.command import EXIT_FAILURE, carry_out, positive
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Report, Section, prepare, show, show_figures

FIGURES = ("passthrough_x_echo_p50", "decision_us", "start_s", "memory_mb", "install_mb")
"""One for each part."""

_OUT = Path("build/bench/sidecar.json")

_Part = Callable[[Path, Steps], Section]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything that was asked for could be measured."""
    parsed = _parser().parse_args(arguments)
    return carry_out(functools.partial(_measure, parsed), log_width=140)


def _measure(parsed: argparse.Namespace, console: Console) -> int:
    prepare(parsed.out)
    report = _run(console, _chosen(parsed), _left_out(parsed))
    show_figures(console, report)
    report.write(parsed.out)
    console.print(f"written to {parsed.out}; took {report.took_s:.0f} s", highlight=False)
    return 0 if len(report.figures()) + len(_left_out(parsed)) == len(FIGURES) else EXIT_FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the sidecar on this machine: passthrough against a bare gRPC echo, decision time, models, "
        "start, memory and install size. Takes about four minutes.",
    )
    parser.add_argument(
        "--only", action="append", choices=_PARTS, metavar="PART", help=f"one of {', '.join(_PARTS)}; can be repeated"
    )
    parser.add_argument("--no-install", action="store_true", help="leave the install out (it needs a package index)")
    parser.add_argument("--rounds", type=positive, default=12, help="rounds of the passthrough (default: %(default)s)")
    parser.add_argument(
        "--requests", type=positive, default=200, help="requests in each of its rounds (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=_OUT, metavar="FILE", help="default: %(default)s")
    return parser


_PARTS: Mapping[str, _Part] = {
    "passthrough": passthrough.measure,
    "decision": decision.measure,
    "models": models.measure,
    "start": start.measure,
    "install": install.measure,
}


def _left_out(parsed: argparse.Namespace) -> dict[str, str]:
    """Parts that the user does not want, and the words that said so."""
    left_out = {name: "--only" for name in _PARTS if parsed.only and name not in parsed.only}
    if parsed.no_install:
        left_out["install"] = "--no-install"
    return left_out


def _chosen(parsed: argparse.Namespace) -> dict[str, _Part]:
    chosen = {name: measure for name, measure in _PARTS.items() if name not in _left_out(parsed)}
    if "passthrough" in chosen:
        chosen["passthrough"] = functools.partial(passthrough.measure, rounds=parsed.rounds, requests=parsed.requests)
    return chosen


def _run(console: Console, parts: Mapping[str, _Part], left_out: Mapping[str, str]) -> Report:
    """Measure one part after the other; one that can't be measured does not stop the others."""
    began = time.monotonic()
    sections: dict[str, Section] = {}
    missing = dict(left_out)
    with tempfile.TemporaryDirectory(prefix="millirank-bench-") as folder, Steps(console) as steps:
        for name, measure in parts.items():
            try:
                sections[name] = measure(Path(folder), steps)
            except BenchError as error:
                missing[name] = str(error)
            except grpc.RpcError as error:
                missing[name] = f"{error.code().name}: {error.details()}"
            else:
                show(console, sections[name])
    return Report(FIGURES, sections, missing, time.monotonic() - began)


if __name__ == "__main__":
    raise SystemExit(main())
