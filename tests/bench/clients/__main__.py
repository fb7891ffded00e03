"""``python -m tests.bench.clients``: run the measurements, show tables, write JSON."""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from rich.console import Console

from tests.bench import passthrough
from tests.bench.clients import overhead
from tests.bench.clients.programs import PROGRAMS, ToolchainMissingError
from tests.bench.command import EXIT_FAILURE, carry_out, positive
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Report, Section, prepare, show, show_figures

FIGURES = (
    *(figure for transport in ("tcp", "unix") for program in PROGRAMS for figure in program.figures(transport)),
    "passthrough_x_echo_p50",
    "passthrough_x_echo_p99",
)

_OUT = Path("build/bench/clients.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything that was asked for could be measured, languages without a toolchain aside."""
    parsed = _parser().parse_args(arguments)
    return carry_out(functools.partial(_measure, parsed), log_width=170)


def _measure(parsed: argparse.Namespace, console: Console) -> int:
    prepare(parsed.out)
    report, failed = _run(console, _chosen(parsed))
    show_figures(console, report)
    report.write(parsed.out)
    console.print(f"written to {parsed.out}; took {report.took_s:.0f} s", highlight=False)
    return EXIT_FAILURE if failed else 0


_Part = Callable[[Path, Steps], Section]
_PASSTHROUGH = "passthrough"
_PARTS = (*(program.name.lower() for program in PROGRAMS), _PASSTHROUGH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.clients",
        description="Measure what the Go, Java and Python clients add to a bare stub call, and what the sidecar adds "
        "to a bare gRPC echo. Takes about three minutes.",
    )
    parser.add_argument(
        "--only", action="append", choices=_PARTS, metavar="PART", help=f"one of {', '.join(_PARTS)}; can be repeated"
    )
    parser.add_argument("--rounds", type=positive, default=12, help="of each part (default: %(default)s)")
    parser.add_argument("--calls", type=positive, default=200, help="in each round (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=_OUT, metavar="FILE", help="default: %(default)s")
    return parser


def _chosen(parsed: argparse.Namespace) -> Mapping[str, _Part]:
    parts: dict[str, _Part] = {
        program.name.lower(): functools.partial(overhead.measure, program, rounds=parsed.rounds, calls=parsed.calls)
        for program in PROGRAMS
    }
    parts[_PASSTHROUGH] = functools.partial(passthrough.measure, rounds=parsed.rounds, requests=parsed.calls)
    return {name: part for name, part in parts.items() if not parsed.only or name in parsed.only}


def _run(console: Console, parts: Mapping[str, _Part]) -> tuple[Report, bool]:
    """Measure one part after the other; one that can't be measured does not stop the others. Whether one failed."""
    began = time.monotonic()
    sections: dict[str, Section] = {}
    missing = {name: "--only" for name in _PARTS if name not in parts}
    failed = False
    with tempfile.TemporaryDirectory(prefix="millirank-bench-") as folder, Steps(console) as steps:
        for name, measure in parts.items():
            try:
                sections[name] = measure(Path(folder), steps)
            except ToolchainMissingError as error:
                missing[name] = str(error)
                console.print(f"{name}: {error}", style="bold yellow", highlight=False)
            except BenchError as error:
                missing[name], failed = str(error), True
            except grpc.RpcError as error:
                missing[name], failed = f"{error.code().name}: {error.details()}", True
            else:
                show(console, sections[name])
    return Report(FIGURES, sections, missing, time.monotonic() - began), failed


if __name__ == "__main__":
    raise SystemExit(main())
