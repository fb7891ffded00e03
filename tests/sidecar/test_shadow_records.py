"""From the settings to a shadow's metrics and file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NoOpTracerProvider

from router.arms import Strategy
from sidecar import assemble_records
from sidecar.metrics import Metrics
from sidecar.settings import SettingsError, ShadowSettings
from tests.helpers import ScriptedReranker, request, rig

TRACER = NoOpTracerProvider().get_tracer("tests")


def metrics(reader: InMemoryMetricReader) -> Metrics:
    return Metrics(MeterProvider([reader], shutdown_on_exit=False).get_meter("tests"))


async def test_agreement_goes_to_metrics_by_strategy_and_to_the_file(tmp_path: Path) -> None:
    """One evaluation, one request that came too early for the next one: two histograms, one counter, one line."""
    path = tmp_path / "shadow.jsonl"
    configured = ShadowSettings(share=1.0, reranker="reference", file=str(path))
    rerankers = {"reference": ScriptedReranker("reference")}
    reader = InMemoryMetricReader()
    shadow, log = assemble_records.shadow(configured, rerankers, TRACER, metrics(reader))
    assert shadow is not None
    assert log is not None
    parts = rig(*rerankers.values(), shadow=shadow)
    for name in ("r-1", "r-2"):
        await parts.pipeline.rerank(request("red", "red", "blue", request_id=name), None, parts.clock())
    await asyncio.sleep(0)
    while shadow._task is not None and not shadow._task.done():
        await asyncio.sleep(0.005)
    log.close()
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["order"] == [0, 1]
    (scope,) = json.loads(reader.get_metrics_data().to_json())["resource_metrics"][0]["scope_metrics"]  # type: ignore[union-attr]
    points = {each["name"]: each["data"]["data_points"] for each in scope["metrics"]}
    (point,) = points["millirank.shadow.rbo"]
    assert (point["attributes"], point["count"]) == ({"millirank.strategy": "none"}, 1)
    assert point["sum"] == pytest.approx(1.0)
    # The answer's order and the one before it, so that a dashboard can show what reranking adds.
    ndcg = {point["attributes"].pop("millirank.order"): point for point in points["millirank.shadow.ndcg"]}
    assert {order: point["sum"] for order, point in ndcg.items()} == {
        "answer": pytest.approx(1.0),
        "first_stage": pytest.approx(1.0),
    }
    assert all(point["attributes"] == {"millirank.strategy": "none"} for point in ndcg.values())
    (point,) = points["millirank.shadow.dropped"]
    assert (point["attributes"], point["value"]) == ({"millirank.reason": "busy"}, 1)


def test_off_by_default() -> None:
    """Share 0: nothing is made, whatever else is set."""
    reader = InMemoryMetricReader()
    assert assemble_records.shadow(ShadowSettings(), {}, TRACER, metrics(reader)) == (None, None)


@pytest.mark.parametrize("name", ["", "absent", "both"])
def test_reference_has_to_be_an_enabled_reranker_that_can_give_way(name: str) -> None:
    """No name, an unknown one, a cascade: the message lists those that would do."""
    rerankers = {"one": ScriptedReranker("one"), "both": ScriptedReranker("both", Strategy.CASCADE)}
    configured = ShadowSettings(share=0.1, reranker=name)
    with pytest.raises(SettingsError, match=f"shadow.reranker is '{name}'; it must name .* no cascade: one$"):
        assemble_records.shadow(configured, rerankers, TRACER, metrics(InMemoryMetricReader()))


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    """The setting and the reason."""
    configured = ShadowSettings(share=0.1, reranker="one", file=str(tmp_path / "absent" / "file"))
    with pytest.raises(SettingsError, match=r"shadow\.file: .* can't be written: No such file or directory"):
        assemble_records.shadow(configured, {"one": ScriptedReranker("one")}, TRACER, metrics(InMemoryMetricReader()))
