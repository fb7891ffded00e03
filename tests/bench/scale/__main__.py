"""``python -m tests.bench.scale``: a pool against a model in the process, and a simulation of 100 times that load."""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.metadata
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.bench.command import carry_out
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Report, Section, prepare, show, show_figures
from tests.bench.scale.plot import draw
from tests.bench.scale.sections import (
    FIGURES,
    IN_PROCESS,
    hop_section,
    measured_section,
    pool_of,
    sharing_section,
    simulation_section,
)
from tests.bench.scale.sharing import compare, has_torch
from tests.bench.scale.simulation import Figures, Load, simulate
from tests.bench.scale.workload import Measured, Way

_SEED = 20260801
_CHUNKS = 5  # of a request's candidates
_BUDGET_MS = 100.0
_REQUESTS = 40_000
_TIMES = 100
# Replicas, as multiples of those that would be busy all the time.
_SIZES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


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
    began = time.monotonic()
    with Steps(console) as steps:
        steps.begin("scale", 6)
        measured, way, model_ms = _measure(steps)
        steps.now("shared calls")
        compared = asyncio.run(compare())
        steps.done()
        steps.now("simulation")
        load, simulated = _simulate(model_ms, way.proxy_ms + way.replica_ms)
        steps.done()
    sections: dict[str, Section] = {
        "measured": measured_section(measured),
        "hop": hop_section(measured, way),
        "sharing": sharing_section(compared),
        "simulation": simulation_section(load, simulated),
    }
    for section in sections.values():
        show(console, section)
    # All that it takes to simulate the same again.
    details = {"ray": importlib.metadata.version("ray"), "simulated": {"seed": _SEED, **asdict(load)}}
    missing = {} if has_torch() else {"sharing on torch": "torch is not installed: pip install -e '.[torch]'"}
    report = Report(FIGURES, sections, missing, time.monotonic() - began, details)
    show_figures(console, report)
    report.write(parsed.out)
    draw(parsed.out.with_suffix(".png"), load, simulated)
    console.print(f"written to {parsed.out} and its .png; took {report.took_s:.0f} s", highlight=False)
    return 0


def _measure(steps: Steps) -> tuple[dict[str, Measured], Way, list[float]]:
    """By name what was measured; where requests to one replica spend their time, and what its model took, in ms."""
    from tests.bench.scale import measure
    from tests.ray.cluster import running

    steps.now("a model in the process")
    measured = {IN_PROCESS: asyncio.run(measure.in_process())}
    steps.done()
    steps.now("starting Ray")
    with tempfile.TemporaryDirectory() as folder, running() as cluster:
        steps.done()
        for replicas in (1, 2):
            steps.now(pool_of(replicas))
            cluster.deploy(measure.arguments(replicas, Path(folder)))
            time.sleep(2.0)
            measured[pool_of(replicas)] = asyncio.run(measure.pooled(cluster))
            if replicas == 1:
                way, model_ms = measure.way(cluster)
            steps.done()
    return measured, way, model_ms


def _simulate(model_ms: Sequence[float], way_ms: float) -> tuple[Load, list[Figures]]:
    """100 times what one replica can compute, at growing numbers of replicas."""
    chunk_ms = [each / _CHUNKS for each in model_ms]
    one_replica_per_s = 1e3 / (sum(model_ms) / len(model_ms))
    load = Load(chunk_ms, _CHUNKS, way_ms, _BUDGET_MS, _TIMES * one_replica_per_s, _REQUESTS)
    return load, [simulate(load, max(1, round(size * _TIMES)), _SEED) for size in _SIZES]


if __name__ == "__main__":
    sys.exit(main())
