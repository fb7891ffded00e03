"""What the sidecar says about itself, read from the metrics that it exports."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.bench import processes
from tests.bench.collector import Collector
from tests.bench.report import BenchError

EXPORT_INTERVAL_MS = 500
_PATIENCE_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals since the sidecar's start: ``lag_counts[i]`` event loop delays up to ``lag_bounds_ms[i]`` (the last ones
    above all bounds), and the milliseconds that models have computed."""

    lag_bounds_ms: tuple[float, ...]
    lag_counts: tuple[int, ...]
    computed_ms: float

    def lag_p99_ms(self, earlier: Reading) -> float:
        """99th percentile since ``earlier``: the upper bound of its bucket; infinite above all bounds."""
        before = earlier.lag_counts or (0,) * len(self.lag_counts)
        counts = [now - then for now, then in zip(self.lag_counts, before, strict=True)]
        total = sum(counts)
        seen = 0
        for bound, count in zip((*self.lag_bounds_ms, float("inf")), counts, strict=True):
            seen += count
            if seen >= 0.99 * total:
                return bound
        raise BenchError("the sidecar has exported no loop lag")


def read(collector: Collector) -> Reading:
    """Of an export that was made after this was called. Raises BenchError where none comes."""
    # The export under way may have been filled before.
    for _ in range(2):
        _await_another(collector)
    metrics = {metric.name: metric for metric in _metrics(collector.latest_metrics)}
    lag = metrics["millirank.loop.lag"].histogram.data_points[0]
    computed = metrics.get("millirank.compute")
    points: Sequence[Any] = computed.sum.data_points if computed else ()
    return Reading(
        tuple(lag.explicit_bounds), tuple(lag.bucket_counts), sum(point.as_double or point.as_int for point in points)
    )


def others_ms(sidecar: int) -> float:
    """CPU time that all CPUs have spent since the machine's start on processes other than this one and the sidecar with
    its children, in ms; right to a few clock ticks of 10 ms each (proc_stat(5))."""
    ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _waits, irq, softirq, steal = ticks
    all_ms = (user + nice + system + irq + softirq + steal) * 1e3 / os.sysconf("SC_CLK_TCK")
    return all_ms - sum(processes.cpu_ms(pid) for pid in (os.getpid(), *processes.tree(sidecar)))


def _await_another(collector: Collector) -> None:
    last = collector.latest_metrics
    end = time.monotonic() + _PATIENCE_S
    while collector.latest_metrics is last:
        if time.monotonic() > end:
            raise BenchError(f"the sidecar has exported no metrics for {_PATIENCE_S:g} s")
        time.sleep(_POLL_S)


def _metrics(data: bytes) -> Iterator[Any]:
    for resource in ExportMetricsServiceRequest.FromString(data).resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics
