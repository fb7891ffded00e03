"""Spans and propagation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from millirank import InvalidRequestError, Reason, RerankError
from millirank.testing import FakeSidecar, failing, partial
from opentelemetry import baggage, context, propagate
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from peers import DOCUMENTS, ROOMY_MS


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where the finished spans go."""
    return InMemorySpanExporter()


@pytest.fixture
async def traced(make_client: Any, sidecar: FakeSidecar, exporter: InMemorySpanExporter) -> AsyncIterator[Any]:
    """Each client in turn, with a tracer provider of its own (the global one can be set only once)."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = make_client(sidecar.target, tracer_provider=provider)
    assert await client.wait_until_ready()
    yield client
    await client.close()


def only_span(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


async def test_a_rerank_is_one_client_span(traced: Any, sidecar: FakeSidecar, exporter: InMemorySpanExporter) -> None:
    """Name, kind, rpc.* and millirank.* attributes tell what was asked and how it ended."""
    sidecar.behaviour = partial(2, Reason.OVERLOADED)

    await traced.rerank("query", DOCUMENTS, budget_ms=80)

    span = only_span(exporter)
    assert (span.name, span.kind) == ("millirank.v1.RerankService/Rerank", SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "millirank.v1.RerankService/Rerank",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": int(sidecar.target.rpartition(":")[2]),
        "millirank.budget_ms": 80.0,
        "millirank.documents": 4,
        "millirank.strategy": "cross_encoder",
        "millirank.reranker": "fake",
        "millirank.reason": "best_expected_gain",
        "millirank.planned_k": 4,
        "millirank.scored_k": 2,
        "millirank.completeness": "partial",
        "millirank.degradation": ("overloaded",),
        "millirank.fallback": False,
        "millirank.cache": "miss",
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_fallback_is_an_error_on_the_span(
    traced: Any, sidecar: FakeSidecar, exporter: InMemorySpanExporter
) -> None:
    """The caller is served, the trace still shows that the sidecar was not there for it."""
    sidecar.behaviour = failing("INTERNAL", "secret query text")

    await traced.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    span = only_span(exporter)
    assert span.attributes is not None
    assert span.attributes["millirank.fallback"] is True
    assert span.attributes["millirank.degradation"] == ("sidecar_error",)
    assert span.attributes["millirank.completeness"] == "first_stage_only"
    assert span.attributes["rpc.response.status_code"] == "INTERNAL"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "sidecar_error")


@pytest.mark.parametrize(
    ("code", "error", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequestError, "InvalidRequestError"),
        ("INTERNAL", RerankError, "sidecar_error"),
    ],
)
async def test_an_exception_ends_the_span_without_its_text(
    traced: Any,
    sidecar: FakeSidecar,
    exporter: InMemorySpanExporter,
    code: str,
    error: type[Exception],
    kind: str,
) -> None:
    """Status ERROR and the type; no message, no stack, no event: they could hold text."""
    sidecar.behaviour = failing(code, "secret query text")

    with pytest.raises(error):
        await traced.rerank("secret query", ["secret document"], strict=True, budget_ms=ROOMY_MS)

    span = only_span(exporter)
    assert span.attributes is not None
    assert span.attributes["error.type"] == kind
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()
    assert not span.events


async def test_explain_has_a_span_of_its_own(traced: Any, sidecar: FakeSidecar, exporter: InMemorySpanExporter) -> None:
    """ExplainRoute is traced under its own name, with the context going along."""
    await traced.explain("query", DOCUMENTS)

    span = only_span(exporter)
    assert span.name == "millirank.v1.RerankService/ExplainRoute"
    assert f"{span.get_span_context().span_id:016x}" in str(sidecar.metadata[-1]["traceparent"])


async def test_trace_and_baggage_travel_to_the_sidecar(
    traced: Any, sidecar: FakeSidecar, exporter: InMemorySpanExporter
) -> None:
    """The sidecar gets this client's span as its parent, and the caller's baggage."""
    token = context.attach(baggage.set_baggage("customer", "acme"))
    try:
        await traced.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)
    finally:
        context.detach(token)

    span = only_span(exporter).get_span_context()
    received = sidecar.metadata[-1]
    assert str(received["traceparent"]).startswith(f"00-{span.trace_id:032x}-{span.span_id:016x}-")
    assert received["baggage"] == "customer=acme"


class _Unruly(TextMapPropagator):
    """Writes what HTTP takes and gRPC does not."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        carrier.update({"X-Trace": "kept", "bad key": "x", "grpc-x": "x", "raw-bin": "x", "line": "a\nb"})

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        return context

    @property
    def fields(self) -> set[str]:
        return set()


async def test_headers_that_grpc_refuses_are_left_out(client: Any, sidecar: FakeSidecar) -> None:
    """A propagator's odd header costs that header, not the call."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(_Unruly())
    try:
        ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)
    finally:
        propagate.set_global_textmap(before)

    assert not ranking.fallback
    received = sidecar.metadata[-1]
    assert received["x-trace"] == "kept"
    assert not {"bad key", "grpc-x", "raw-bin", "line"} & set(received)
