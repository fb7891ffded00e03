"""``python -m tests.bench.rerankers``: prepare everybody, run the rounds, show tables, write JSON."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.bench.command import EXIT_FAILURE, carry_out, positive
from tests.bench.progress import Steps
from tests.bench.report import prepare, show, show_figures
from tests.bench.rerankers.measure import PARTS, Choice, measure

_OUT = Path("build/bench/rerankers.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything that was asked for could be measured, absent rivals aside."""
    parsed = _parser().parse_args(arguments)
    return carry_out(functools.partial(_measure, parsed))


def _measure(parsed: argparse.Namespace, console: Console) -> int:
    choice = Choice(
        parts=tuple(parsed.only or PARTS),
        rounds=parsed.rounds,
        minutes=parsed.minutes,
        quick=parsed.quick,
        without=tuple(parsed.without or ()),
        collection=parsed.collection,
    )
    prepare(parsed.out)
    with tempfile.TemporaryDirectory(prefix="millirank-bench-") as folder, Steps(console) as steps:
        report = measure(choice, Path(folder), steps, functools.partial(show, console))
    show_figures(console, report)
    report.write(parsed.out)
    console.print(f"written to {parsed.out}; took {report.took_s:.0f} s", highlight=False)
    return EXIT_FAILURE if set(choice.parts) & set(report.missing) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.rerankers",
        description="Measure the local engines against sentence-transformers, infinity-emb and FlashRank: same "
        "weights, same pairs, same run. The first run makes their environments (minutes, 4 GB); later ones take about "
        "ten minutes.",
    )
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help=f"one of {', '.join(PARTS)}; can be repeated"
    )
    parser.add_argument(
        "--without",
        action="append",
        metavar="WORD",
        help="leave out contenders whose name contains WORD, such as infinity; can be repeated",
    )
    parser.add_argument(
        "--rounds", type=positive, default=7, help="of each shape of request, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=6.0,
        help="no further round of the cross-encoders begins that would not fit (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="one round of three shapes, ten queries: does it work?")
    parser.add_argument(
        "--collection",
        type=Path,
        metavar="FOLDER",
        help="in BEIR layout, for nDCG@10 (default: the Python standard library's documentation)",
    )
    parser.add_argument("--out", type=Path, default=_OUT, metavar="FILE", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
