"""``python -m tests.bench.router``: measure collections, fit on halves, try every policy, show tables, write JSON."""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sidecar.calibrate.collection import CollectionError
from sidecar.calibrate.fit import KS
from sidecar.calibrate.make.measure import FIRST_STAGES, Measured, folders, measure
from sidecar.calibrate.private_sidecar import PrivateSidecarError
from sidecar.calibrate.records import LatencySample
from sidecar.calibrate.sweep_latency import sweep_latency
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.settings import Settings
from tests.bench.command import carry_out, positive
from tests.bench.progress import Steps
from tests.bench.report import Report, Section, prepare, show, show_figures
from tests.bench.router.figures import FIGURES, collection_section, stage_section
from tests.bench.router.redraws import run

_OUT = Path("build/bench/router.json")
_LATENCY_S = 30.0  # for each collection
_REQUESTS = 100  # of every arm and k that is fast enough; the policies' documents are warm, so nothing else is timed


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything could be measured."""
    parsed = _parser().parse_args(arguments)
    return carry_out(
        functools.partial(_report, parsed), errors=(CollectionError, SweepError, PrivateSidecarError, OSError)
    )


def _report(parsed: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    prepare(parsed.out)
    with tempfile.TemporaryDirectory(prefix="millirank-bench-") as folder, Steps(console) as steps:
        cache = Path(folder) if parsed.cache is None else parsed.cache
        measured = _measured(folders(parsed.collections), cache, steps)
        steps.begin("halves", len(measured) * len(FIRST_STAGES) * parsed.redraws)
        results = run(measured, parsed.redraws, parsed.seed, steps.done)
    rerankers = measured[0][0].strategies
    sections: dict[str, Section] = {}
    for stage in FIRST_STAGES:
        sections[stage] = stage_section(results, stage, rerankers)
        sections[f"{stage} by collection"] = collection_section(results, stage)
    for section in sections.values():
        show(console, section)
    details = {"collections": _sizes(measured)}
    report = Report(FIGURES, sections, {}, time.monotonic() - began, details)
    show_figures(console, report)
    report.write(parsed.out)
    console.print(f"written to {parsed.out}; took {report.took_s:.0f} s", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.router",
        description="What calibration and routing are worth on collections in BEIR layout: the calibrated router "
        "beside no rerank, the signals alone, every fixed arm, random routing and the per-query oracle. Weights and "
        "gains are fitted on half of the queries and tested on the other half; what is pooled over collections leaves "
        "out the one that is tested. Takes about 15 minutes for 23,000 documents and 950 queries on two processors.",
    )
    parser.add_argument(
        "--collections", type=Path, required=True, metavar="FOLDER", help="whose sub-folders are collections"
    )
    parser.add_argument(
        "--redraws", type=positive, default=20, help="halves of each collection's queries (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the halves (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="keep scores and vectors there (default: nothing is kept)"
    )
    parser.add_argument("--out", type=Path, default=_OUT, metavar="FILE", help="default: %(default)s")
    return parser


def _measured(paths: Sequence[Path], cache: Path, steps: Steps) -> list[tuple[Measured, list[LatencySample]]]:
    """Every collection with its scores and with what requests took."""
    steps.begin("collections", 2 * len(paths))
    found = []
    for path in paths:
        measured = measure(path, cache, steps.now)
        steps.done()
        steps.now(f"{path.name}: latency")
        samples = sweep_latency(
            measured.collection,
            measured.lists["hybrid"],
            Settings(),
            cache_dir=cache,
            ks=KS,
            requests=_REQUESTS,
            cold=False,
            limit_s=_LATENCY_S,
            progress=False,
        )
        steps.done()
        found.append((measured, samples))
    return found


def _sizes(measured: Sequence[tuple[Measured, Sequence[LatencySample]]]) -> dict[str, dict[str, int]]:
    return {
        one.collection.name: {
            "documents": len(one.collection.documents),
            "queries": len(one.collection.queries),
            "latency_samples": len(samples),
        }
        for one, samples in measured
    }


if __name__ == "__main__":
    raise SystemExit(main())
