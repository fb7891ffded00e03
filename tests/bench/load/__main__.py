"""``python -m tests.bench.load``: find the capacity, load the sidecar, show tables, draw, write JSON."""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.bench.command import carry_out
from tests.bench.load.measure import FACTORS, ORDERS, Bench, Durations, split_cpus
from tests.bench.load.plot import draw
from tests.bench.load.report import LoadReport, show, show_figures
from tests.bench.load.traffic import Traffic
from tests.bench.progress import Steps
from tests.bench.report import prepare

_OUT = Path("build/bench/load.json")
# Of the whole time: what a trial of the capacity, a rate, a part of the step and the requests before each take.
_TRIAL_SHARE, _RATE_SHARE, _STEP_SHARE, _WARM_UP_SHARE = 0.012, 0.03, 0.022, 0.005


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything was measured; whether the figures are good is for the reader."""
    parsed = _parser().parse_args(arguments)
    return carry_out(functools.partial(_report, parsed), log_width=220)


def _report(parsed: argparse.Namespace, console: Console) -> int:
    prepare(parsed.out)
    report = _measure(console, parsed)
    for name, run in report.runs.items():
        show(console, name, run)
    show_figures(console, report)
    report.write(parsed.out)
    draw(parsed.out.with_suffix(".png"), report.runs, report.capacity_per_s)
    console.print(f"written to {parsed.out} and its .png; took {report.took_s:.0f} s", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.load",
        description="Load the sidecar at 0.5 to 10 times its capacity and show what callers get, beside the same "
        "sidecar with its work in order of arrival (fifo) and of deadline (edf).",
    )
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="about how long it takes (default: %(default)g)")
    parser.add_argument("--quick", action="store_true", help="two minutes, for a first look: --minutes 2")
    parser.add_argument(
        "--order", action="append", choices=tuple(ORDERS), help="only this order of work; can be repeated"
    )
    parser.add_argument(
        "--factor", action="append", type=float, choices=FACTORS, help="only this multiple of the capacity; repeatable"
    )
    parser.add_argument("--capacity", type=float, metavar="PER_S", help="take this capacity instead of finding it")
    parser.add_argument("--out", type=Path, default=_OUT, metavar="FILE", help="default: %(default)s, plot beside it")
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not minutes >= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is too short; take 1 or more")
    return minutes


def _measure(console: Console, parsed: argparse.Namespace) -> LoadReport:
    seconds = 60.0 * (2.0 if parsed.quick else parsed.minutes)
    durations = Durations(
        trial_s=_TRIAL_SHARE * seconds,
        rate_s=_RATE_SHARE * seconds,
        step_s=_STEP_SHARE * seconds,
        warm_up_s=_WARM_UP_SHARE * seconds,
    )
    began = time.monotonic()
    cpus = split_cpus()
    with tempfile.TemporaryDirectory(prefix="millirank-load-") as folder, Steps(console) as steps:
        bench = Bench(Path(folder), steps, Traffic(), durations, cpus)
        capacity = parsed.capacity or bench.capacity()
        runs = bench.runs(parsed.order or tuple(ORDERS), capacity, parsed.factor or FACTORS)
    return LoadReport(capacity, runs, cpus, durations, time.monotonic() - began)


if __name__ == "__main__":
    raise SystemExit(main())
