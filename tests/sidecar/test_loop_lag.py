"""The event loop's own delay, as a metric."""

from __future__ import annotations

import asyncio
import time

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sidecar.loop_lag import LoopLag
from sidecar.metrics import Metrics


async def test_a_blocked_loop_is_seen() -> None:
    """While a callback holds the loop for 60 ms, one wake-up is at least 40 ms late; the others are not."""
    reader = InMemoryMetricReader()
    metrics = Metrics(MeterProvider([reader], shutdown_on_exit=False).get_meter("tests"))
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch(metrics.loop_lag))
    await asyncio.sleep(0.05)
    time.sleep(0.06)
    await asyncio.sleep(0.05)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching

    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    (point,) = metric.data.data_points
    assert metric.name == "millirank.loop.lag"
    assert point.max >= 40.0
    assert point.count >= 4
    assert point.max / 2 < lag.recent_ms <= point.max
