"""Traces and metrics as they leave the process: one connected tree, the whole decision on it, and never any text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from millirank import Client, Ranking
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.e2e.conftest import ModelSidecar
from tests.e2e.otlp_receiver import attributes_of
from tests.helpers import MARKER

RERANK = "millirank.v1.RerankService/Rerank"
BUDGET_MS = 30_000.0  # so that a loaded machine never makes the answer less than complete


@pytest.fixture
def client(model_sidecar: ModelSidecar) -> Iterator[Client]:
    """A client whose spans go to the same receiver as the sidecar's."""
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=model_sidecar.receiver.endpoint, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Client(model_sidecar.tcp, tracer_provider=provider) as client:
        yield client
    provider.shutdown()


def trace_of(model_sidecar: ModelSidecar, request_id: str) -> dict[str, list[Span]]:
    """The spans of one request's trace by name, with kinds for the two RPC spans, as soon as all have come."""

    def own() -> list[Span]:
        spans = model_sidecar.receiver.spans()
        ids = {span.trace_id for span in spans if attributes_of(span).get("millirank.request_id") == request_id}
        return [span for span in spans if span.trace_id in ids]

    def complete() -> bool:
        return {Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER} <= {span.kind for span in own()}

    model_sidecar.receiver.wait_until(complete)
    found: dict[str, list[Span]] = {}
    for span in own():
        found.setdefault(
            {Span.SPAN_KIND_CLIENT: "client", Span.SPAN_KIND_SERVER: "server"}.get(span.kind, span.name), []
        ).append(span)
    return found


def reranked(client: Client, request_id: str, query: str = "sort a list", *texts: str) -> Ranking[str]:
    ranking = client.rerank(
        query, texts or ("sorted() sorts", "open() opens"), budget_ms=BUDGET_MS, request_id=request_id
    )
    assert not ranking.fallback, ranking
    return ranking


def test_one_connected_tree(client: Client, model_sidecar: ModelSidecar) -> None:
    """Client span -> server span -> route and score: one trace id, each one's parent is the one before."""
    reranked(client, "tree")
    trace = trace_of(model_sidecar, "tree")
    # A chunk that had to wait for work behind an earlier answer has a `queue` span, too.
    assert set(trace) - {"queue"} == {"client", "server", "route", "score"}
    (caller,), (server,), (route,) = trace["client"], trace["server"], trace["route"]
    assert caller.name == server.name == RERANK
    assert caller.parent_span_id == b""
    assert server.parent_span_id == caller.span_id
    assert route.parent_span_id == server.span_id
    assert {score.parent_span_id for score in trace["score"]} == {server.span_id}
    assert len({span.trace_id for spans in trace.values() for span in spans}) == 1


def test_decision_is_readable_from_the_trace(client: Client, model_sidecar: ModelSidecar) -> None:
    """Why this arm, what it was predicted to cost and what it did cost: as in the answer."""
    ranking = reranked(client, "decision", "a query", "one text", "another text", "a third text")
    assert ranking.decision is not None
    trace = trace_of(model_sidecar, "decision")
    route, server = attributes_of(trace["route"][0]), attributes_of(trace["server"][0])
    assert server["millirank.decision_id"] == ranking.decision.id
    for attributes in (route, server):
        assert attributes["millirank.strategy"] == "late_interaction"
        assert attributes["millirank.reranker"] == "minilm-l6"
        assert attributes["millirank.planned_k"] == 3
        assert attributes["millirank.reason"] == "best_expected_gain"
        assert attributes["millirank.budget_ms"] > 1000
        assert attributes["millirank.predicted_p95_ms"] > 0
        assert attributes["millirank.expected_gain"] == pytest.approx(0.1)
    assert route["millirank.predicted_p50_ms"] <= route["millirank.predicted_p95_ms"]
    # One line for every arm that was looked at: first-stage order, the model, and the one that is off.
    considered = "\n".join(route["millirank.considered"])
    assert "minilm-l6@3: chosen: " in considered
    assert "none@0: " in considered
    assert "absent@" in considered
    assert "/nowhere/model" in considered
    assert server["millirank.scored_k"] == 3
    assert server["millirank.completeness"] == "full"
    assert server["millirank.cache"] == "miss"
    assert server["gen_ai.operation.name"] == "rerank"
    assert server["rpc.grpc.status_code"] == 0
    scores = [attributes_of(span) for span in trace["score"]]
    assert sum(each["millirank.chunk.documents"] for each in scores) == 3
    assert all(each["millirank.compute_ms"] > 0 for each in scores)
    assert all(each["gen_ai.request.model"] == "minilm-l6" for each in scores)
    assert server["millirank.score_ms"] == pytest.approx(sum(each["millirank.compute_ms"] for each in scores), abs=0.01)


def test_degradation_is_on_the_server_span(client: Client, model_sidecar: ModelSidecar) -> None:
    """Invariant 5: why an answer is less than planned."""
    ranking = client.rerank("degraded", ["a", "b"], budget_ms=1.0, request_id="degraded")
    if ranking.fallback:  # a loaded machine may not get an answer of 1 ms in time; the sidecar still traced it
        assert ranking.reasons
    server = attributes_of(trace_of(model_sidecar, "degraded")["server"][0])
    assert server["millirank.degradation"] == ["budget_too_small"]
    assert server["millirank.completeness"] == "first_stage_only"


def test_metrics_are_exported(client: Client, model_sidecar: ModelSidecar) -> None:
    """The instruments reach a collector."""
    reranked(client, "metrics")
    model_sidecar.receiver.wait_until(
        lambda: (
            {"millirank.request.duration", "millirank.budget.use", "millirank.prediction.ratio"}
            <= model_sidecar.receiver.metric_names()
        )
    )


def test_no_text_leaves_the_process(client: Client, model_sidecar: ModelSidecar) -> None:
    """Invariant 11: a word of the query and the documents is in no span, metric or log line, also at debug level."""
    texts = [f"{MARKER} sorts", f"opens {MARKER}"]
    ranking = client.rerank(
        f"{MARKER} sort", texts, budget_ms=BUDGET_MS, request_id="leak", instruction=MARKER, tenant=MARKER
    )
    assert ranking.decision is not None
    assert ranking.decision.scored_k == 2
    trace_of(model_sidecar, "leak")
    seen = model_sidecar.receiver.metric_exports()
    # The next round may have begun before the answer was counted; the one after it covers it.
    model_sidecar.receiver.wait_until(lambda: model_sidecar.receiver.metric_exports() >= seen + 2)
    assert MARKER.encode() not in model_sidecar.receiver.exported_bytes
    assert MARKER not in model_sidecar.sidecar.output
