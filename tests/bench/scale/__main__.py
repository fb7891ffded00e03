"""``python -m tests.bench.scale``: a pool against a model in the process, and a simulation of 100 times that load."""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.command import carry_out
from tests.bench.progress import Steps
from tests.bench.report import BenchError, prepare
from tests.bench.scale.simulation import Figures, Load, simulate

_SEED = 20260801
_CHUNKS = 5  # of a request's candidates
_BUDGET_MS = 100.0
_REQUESTS = 40_000
_TIMES = 100
_GOAL_MS = 12.0
# Replicas, as multiples of those that would be busy all the time.
_SIZES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class _Simulated:
    load: Load
    figures: list[Figures]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything was measured; whether the figures are good is for the reader."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/scale.json"), help="JSON; the plot is beside it")
    parsed = parser.parse_args(arguments)
    return carry_out(functools.partial(_report, parsed))


def _report(parsed: argparse.Namespace, console: Console) -> int:
    if importlib.util.find_spec("ray") is None:  # said before a minute is spent
        raise BenchError("Ray is not installed; run: pip install -e '.[ray]'")
    prepare(parsed.out)
    report, simulated = _measure(console)
    _show(console, report, simulated)
    parsed.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _draw(parsed.out.with_suffix(".png"), simulated)
    console.print(f"written to {parsed.out} and its .png", highlight=False)
    return 0


def _measure(console: Console) -> tuple[dict[str, object], _Simulated]:
    from tests.bench.scale import measure
    from tests.ray.cluster import running

    with Steps(console) as steps, tempfile.TemporaryDirectory() as folder:
        steps.begin("scale", 5)
        steps.now("a model in the process")
        local = asyncio.run(measure.in_process())
        steps.done()
        steps.now("starting Ray")
        pools = {}
        with running() as cluster:
            steps.done()
            for replicas in (1, 2):
                steps.now(f"a pool with {replicas} replicas")
                cluster.deploy(measure.arguments(replicas, Path(folder)))
                time.sleep(2.0)
                pools[str(replicas)] = asyncio.run(measure.pooled(cluster))
                if replicas == 1:
                    spent, model_ms = measure.way(cluster)
                steps.done()
        steps.now("simulation")
        simulated = _simulation(model_ms, spent.proxy_ms + spent.replica_ms)
        steps.done()
    report: dict[str, object] = {
        "candidates": measure.CANDIDATES,
        "in_process": asdict(local),
        "pool": {replicas: asdict(measured) for replicas, measured in pools.items()},
        "hop_p50_ms": pools["1"].p50_ms - local.p50_ms,
        "hop_goal_ms": _GOAL_MS,
        "way": asdict(spent),
        "simulation": {
            "seed": _SEED,
            "rate_per_s": simulated.load.rate_per_s,
            "budget_ms": _BUDGET_MS,
            "way_ms": simulated.load.way_ms,
            "figures": [asdict(figures) for figures in simulated.figures],
        },
    }
    return report, simulated


def _simulation(model_ms: Sequence[float], way_ms: float) -> _Simulated:
    """100 times what one replica can compute, at growing numbers of replicas."""
    chunk_ms = [each / _CHUNKS for each in model_ms]
    one_replica_per_s = 1e3 / (sum(model_ms) / len(model_ms))
    load = Load(chunk_ms, _CHUNKS, way_ms, _BUDGET_MS, _TIMES * one_replica_per_s, _REQUESTS)
    figures = [simulate(load, max(1, round(size * _TIMES)), _SEED) for size in _SIZES]
    return _Simulated(load, figures)


def _show(console: Console, report: dict[str, object], simulated: _Simulated) -> None:
    table = Table("", "p50 ms", "p95 ms", "requests/s", "p99 ms when full", title=f"{report['candidates']} candidates")
    rows = {"in the process": report["in_process"]}
    rows |= {f"pool, {replicas} replicas": measured for replicas, measured in report["pool"].items()}  # type: ignore[attr-defined]
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))  # type: ignore[attr-defined]
    console.print(table)
    parts = ", ".join(f"{name.removesuffix('_ms')} {value:.1f}" for name, value in report["way"].items())  # type: ignore[attr-defined]
    console.print(f"hop: {report['hop_p50_ms']:.1f} ms more at p50 (goal {_GOAL_MS:.0f}); medians in ms: {parts}")
    title = f"simulated: {simulated.load.rate_per_s:.0f} requests/s, budget {_BUDGET_MS:.0f} ms"
    table = Table("replicas", "in budget", "useful", "full", "first stage", "p99 ms", "busy", title=title)
    for row in simulated.figures:
        table.add_row(
            str(row.replicas),
            *(f"{100 * share:.1f} %" for share in (row.adherence, row.useful, row.full, row.first_stage)),
            f"{row.p99_ms:.0f}",
            f"{100 * row.busy:.0f} %",
        )
    console.print(table)


def _draw(path: Path, simulated: _Simulated) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    replicas = [row.replicas for row in simulated.figures]
    for label, values in (
        ("answers within the budget", [row.adherence for row in simulated.figures]),
        ("useful: candidates scored", [row.useful for row in simulated.figures]),
        ("answers in full", [row.full for row in simulated.figures]),
        ("replicas busy", [row.busy for row in simulated.figures]),
    ):
        axes.plot(replicas, [100 * value for value in values], marker="o", label=label)
    axes.set(xlabel="replicas", ylabel="%", ylim=(0, 105))
    axes.set_title(f"{simulated.load.rate_per_s:.0f} requests/s, budget {_BUDGET_MS:.0f} ms (simulated)")
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
