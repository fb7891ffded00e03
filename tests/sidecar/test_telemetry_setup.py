"""Which exporters the OTEL_* variables choose, and what the instruments count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from router.arms import Availability, State, Strategy
from router.policy import Routing
from sidecar import telemetry
from sidecar.request_frame import Arrival
from sidecar.rerankers.base import BackendError, Limits, Scored
from sidecar.settings import Mode
from sidecar.telemetry import TelemetryError, _metric_exporter, _span_exporter
from tests.helpers import MARKER, Clock, Rig, ScriptedReranker, request, rig

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("environment", "spans", "metrics"),
    [
        ({}, None, None),
        (ENDPOINT, GrpcSpans, GrpcMetrics),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, None, None),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, GrpcSpans, None),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None, GrpcMetrics),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": ""}, GrpcSpans, GrpcMetrics),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}, GrpcSpans, None),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4317"}, None, GrpcMetrics),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"},
            ConsoleSpanExporter,
            ConsoleMetricExporter,
        ),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, HttpSpans, HttpMetrics),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            GrpcSpans,
            HttpMetrics,
        ),
    ],
)
def test_exporters_follow_the_environment(
    environment: dict[str, str], spans: type | None, metrics: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is exported until asked for; the standard variables choose exporter and protocol for each signal."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)  # exporters read their endpoints from the process's own environment
    for made, wanted in ((_span_exporter(environment), spans), (_metric_exporter(environment), metrics)):
        assert type(made) is (wanted or type(None))
        if made is not None:
            made.shutdown()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER is 'jaeger'; use otlp, console or none"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER is 'prometheus'"),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; use grpc or http/protobuf",
        ),
    ],
)
def test_exporters_that_are_not_there(environment: dict[str, str], words: str) -> None:
    """The variable, its value and what there is."""
    with pytest.raises(TelemetryError, match=words):
        telemetry.set_up(environment)


def test_prometheus_needs_the_sdk() -> None:
    """An endpoint that would stay empty is refused with the variable that keeps it so."""
    with pytest.raises(TelemetryError, match=r"listen\.metrics is set, but OTEL_SDK_DISABLED is true"):
        telemetry.set_up({"OTEL_SDK_DISABLED": "true"}, prometheus=True)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "millirank"),
        ({"OTEL_SERVICE_NAME": "search"}, "search"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop"}, "shop"),
        ({"OTEL_SERVICE_NAME": "search", "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop"}, "search"),
    ],
)
def test_service_name(environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's name wins, as the specification orders them; without one it is ours."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    spans = InMemorySpanExporter()
    built = telemetry.set_up(environment, SimpleSpanProcessor(spans))
    built.tracer.start_span("x").end()
    built.close()
    (span,) = spans.get_finished_spans()
    assert span.resource.attributes["service.name"] == name


async def _answer(parts: Rig, *texts: str, **fields: Any) -> None:
    answer = await parts.pipeline.rerank(request(fields.pop("query", "red"), *texts, **fields), None, parts.clock())
    parts.instruments.answered(answer)


async def test_answers_are_counted() -> None:
    """Duration, share of the budget and prediction error of a complete answer, by strategy."""
    parts = rig(ScriptedReranker())
    await _answer(parts, "red", "blue")
    metrics = parts.metrics()
    (point,) = metrics["millirank.request.duration"]
    assert point["count"] == 1
    assert point["attributes"]["millirank.strategy"] == "cross_encoder"
    assert point["attributes"]["millirank.completeness"] == "full"
    assert metrics["millirank.budget.use"][0]["sum"] > 0
    assert metrics["millirank.prediction.ratio"][0]["attributes"] == {"millirank.reranker": "scripted"}
    assert "millirank.degradations" not in metrics


async def test_where_the_time_went() -> None:
    """Route, queue, score and the rest add up to the duration; an answer without reranking has no stages."""
    parts = rig(ScriptedReranker(document_ms=4.0, clock=(clock := Clock())), clock=clock)
    await _answer(parts, "red", "blue", routing=Routing(Strategy.NONE))
    assert "millirank.stage.time" not in parts.metrics()
    await _answer(parts, "red", "blue", budget_ms=60_000.0)
    metrics = parts.metrics()
    stages = {point["attributes"]["millirank.stage"]: point["value"] for point in metrics["millirank.stage.time"]}
    assert stages == pytest.approx({"score": 8.0, "other": 0.0}, abs=1e-6)
    assert sum(stages.values()) == pytest.approx(sum(point["sum"] for point in metrics["millirank.request.duration"]))
    (held,) = metrics["millirank.predictions"]
    assert held["attributes"] == {"millirank.reranker": "scripted", "millirank.held": "none"}  # p95 was 0.2 ms
    (coverage,) = metrics["millirank.coverage"]
    assert (coverage["sum"], coverage["count"]) == (1.0, 1)


async def test_budget_misses_are_what_the_promise_does_not_allow() -> None:
    """Within budget + max(5 ms, 2 %) is kept; beyond it is a miss."""
    clock = Clock()
    parts = rig(ScriptedReranker(limits=Limits(2, whole_list=True), document_ms=50.0, clock=clock), clock=clock)
    await _answer(parts, "red", "blue", budget_ms=100.0)  # 98 ms can be spent, 103 are allowed
    assert "millirank.budget.misses" not in parts.metrics()
    await _answer(parts, "blue", "red", budget_ms=96.0)
    (missed,) = parts.metrics()["millirank.budget.misses"]
    assert (missed["value"], missed["attributes"]) == (1, {"millirank.strategy": "cross_encoder"})


async def test_a_caller_who_has_gone_is_counted() -> None:
    """A deadline that passed on the caller's side is no answer and no error here: without this it would be nothing."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    asked = request("red", "red", "blue", budget_ms=60_000.0)
    arrival = Arrival("x", "x", {}, {}, "rpc.grpc.status_code", lambda failure: 0)
    running = asyncio.create_task(parts.frame.run(arrival, lambda _: parts.pipeline.rerank(asked, None, parts.clock())))
    await reranker.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    metrics = parts.metrics()
    assert metrics["millirank.abandoned"][0]["value"] == 1
    assert "millirank.request.duration" not in metrics


async def test_states_and_mode_are_told_while_they_last() -> None:
    """One series for each state, 1 for the present one: an alert needs no memory."""
    reranker = ScriptedReranker()
    parts = rig(reranker)
    parts.instruments.watch({"scripted": reranker}, lambda: parts.pipeline.mode, lambda: 0.25)
    reranker.state = Availability(State.CIRCUIT_OPEN, "5 failures in a row")
    metrics = parts.metrics()
    states = {point["attributes"]["millirank.state"]: point["value"] for point in metrics["millirank.reranker.state"]}
    assert states == {"ready": 0, "warming": 0, "circuit_open": 1, "off": 0}
    modes = {point["attributes"]["millirank.mode"]: point["value"] for point in metrics["millirank.mode"]}
    assert modes == {"off": 0, "observe": 0, "on": 1}
    assert metrics["millirank.utilisation"][0]["value"] == 0.25


async def test_labels_of_durations_and_budget_use() -> None:
    """Dashboards and alerts are built on these: durations by six labels, the share of the budget by strategy alone."""
    parts = rig(ScriptedReranker())
    for _ in range(2):
        await _answer(parts, "red", "blue", budget_ms=60_000.0)
    await _answer(parts, "red", "blue", routing=Routing(Strategy.NONE))
    metrics = parts.metrics()
    common = {"millirank.mode": "on", "millirank.completeness": "full"}
    modelled = {
        **common,
        "millirank.strategy": "cross_encoder",
        "millirank.reranker": "scripted",
        "millirank.reason": "best_expected_gain",
    }
    unranked = {
        **common,
        "millirank.strategy": "none",
        "millirank.reranker": "",
        "millirank.reason": "forced",
        "millirank.cache": "miss",
    }
    durations = [point["attributes"] for point in metrics["millirank.request.duration"]]
    assert _sorted(durations) == _sorted(
        [{**modelled, "millirank.cache": "miss"}, {**modelled, "millirank.cache": "hit"}, unranked]
    )
    use = {point["attributes"]["millirank.strategy"]: point for point in metrics["millirank.budget.use"]}
    assert {strategy: point["count"] for strategy, point in use.items()} == {"cross_encoder": 2, "none": 1}
    assert all(len(point["attributes"]) == 1 for point in use.values())


async def test_modes_and_reasons_are_told_apart() -> None:
    """Labels are kept between answers: each combination keeps its own, nothing is taken for something similar."""
    parts = rig(ScriptedReranker())
    for mode in (Mode.ON, Mode.OBSERVE, Mode.OFF, Mode.ON):
        parts.pipeline.mode = mode
        await _answer(parts, "red", "blue", budget_ms=0.0)
    await parts.pipeline.close()
    counted = {
        (point["attributes"]["millirank.mode"], point["attributes"]["millirank.reason"]): point["count"]
        for point in parts.metrics()["millirank.request.duration"]
    }
    assert counted == {("on", "budget_too_small"): 2, ("observe", "budget_too_small"): 1, ("off", "mode_off"): 1}
    assert "millirank.budget.use" not in parts.metrics()  # there was nothing that could be used


async def test_pairs_and_price_are_counted_by_reranker() -> None:
    """Pairs that were computed and pairs that were kept; what failed calls were charged is a cost too."""
    reranker = ScriptedReranker()
    reranker.script = [
        Scored(scores=(1.0, 2.0, 3.0), tokens=9, cached=1, compute_ms=1.0, micro_usd=5.0),
        BackendError("down", micro_usd=3.0),
    ]
    parts = rig(reranker)
    for _ in range(2):
        await _answer(parts, "red", "blue", "green", use_cache=False, budget_ms=60_000.0)
    metrics = parts.metrics()
    pairs = {point["attributes"]["millirank.cache"]: point["value"] for point in metrics["millirank.pairs"]}
    assert pairs == {"kept": 1, "computed": 2}
    (cost,) = metrics["millirank.cost"]
    assert (cost["attributes"], cost["value"]) == ({"millirank.reranker": "scripted"}, 8)


def _sorted(labels: list[dict[str, str]]) -> list[list[tuple[str, str]]]:
    return sorted(sorted(each.items()) for each in labels)


async def test_degradations_are_counted_by_reason() -> None:
    """Invariant 5: why an answer is less than planned is in a metric."""
    reranker = ScriptedReranker()
    reranker.script = [BackendError("down"), BackendError("down")]
    parts = rig(reranker)
    for _ in range(2):
        await _answer(parts, "red", "blue")
    await _answer(parts, "red", "blue", budget_ms=0.0)
    counted = {
        point["attributes"]["millirank.degradation"]: point["value"]
        for point in parts.metrics()["millirank.degradations"]
    }
    assert counted == {"backend_error": 2, "budget_too_small": 1}


async def test_metrics_and_spans_hold_no_text() -> None:
    """Invariant 11: neither query, document, id, tenant nor instruction appears in any metric or span."""
    parts = rig(ScriptedReranker())
    await _answer(parts, f"{MARKER} red", MARKER, query=MARKER, tenant=MARKER, instruction=MARKER)
    assert parts.spans.get_finished_spans()
    for span in parts.spans.get_finished_spans():
        assert MARKER not in span.to_json()
    assert MARKER not in parts.metric_reader.get_metrics_data().to_json()  # type: ignore[union-attr]
