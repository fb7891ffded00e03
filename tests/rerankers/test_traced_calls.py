"""Calls of an LLM and of a pool on the trace: what was asked of whom, what it took and cost, and never any text."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from sidecar.rerankers.base import BadOutputError, Reranker
from sidecar.rerankers.llm import LlmReranker
from sidecar.rerankers.remote import HttpReranker
from tests.helpers import MARKER
from tests.rerankers.fake_openai import FakeOpenAI
from tests.rerankers.fake_pool import FakePool, Fault
from tests.rerankers.llm_cases import request_for, until_loaded
from tests.rerankers.remote_cases import loaded


class Spans:
    """A tracer, and what it has traced."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer: Tracer = provider.get_tracer("tests")

    async def of(self, reranker: Reranker, query: str, *texts: str, timeout_s: float = 5.0) -> list[ReadableSpan]:
        """The calls that scoring makes, within a span as `sidecar.scoring` opens one; what it raises is raised."""
        self._kept.clear()
        try:
            with self.tracer.start_as_current_span("score", record_exception=False, set_status_on_exception=False):
                await reranker.score(request_for(query, *texts), timeout_s)
        finally:
            await reranker.close()
            self.finished = [span for span in self._kept.get_finished_spans() if span.name != "score"]
        return self.finished


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def test_a_chat(spans: Spans, server: FakeOpenAI) -> None:
    """Kind, model, host, tokens and price; the backend is told the span, so that its own spans join the trace."""
    llm = LlmReranker("grader", server.base_url, "m", prompt_price_micro_usd_per_1k=1000, tracer=spans.tracer)
    (chat,) = await spans.of(await until_loaded(llm), f"{MARKER} q", f"{MARKER} a", "b")
    assert (chat.name, chat.kind) == ("chat m", SpanKind.CLIENT)
    assert chat.parent is not None
    attributes = dict(chat.attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "m"
    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["gen_ai.usage.input_tokens"] > 0  # type: ignore[operator]
    assert attributes["millirank.cost_micro_usd"] == attributes["gen_ai.usage.input_tokens"]
    (received,) = server.received
    assert received.headers["traceparent"].split("-")[1:3] == [
        f"{chat.context.trace_id:032x}",  # type: ignore[union-attr]
        f"{chat.context.span_id:016x}",  # type: ignore[union-attr]
    ]
    assert "baggage" not in received.headers
    assert MARKER not in chat.to_json()


async def test_pointwise_calls_are_a_span_each(spans: Spans, server: FakeOpenAI) -> None:
    """Three candidates, three calls side by side below the chunk."""
    llm = LlmReranker("grader", server.base_url, "m", prompting="pointwise", tracer=spans.tracer)
    chats = await spans.of(await until_loaded(llm), "q", "a", "b", "c")
    assert [chat.name for chat in chats] == ["chat m"] * 3
    assert len({chat.parent.span_id for chat in chats if chat.parent}) == 1


async def test_a_call_that_was_cut_off(spans: Spans, server: FakeOpenAI) -> None:
    """Too slow: the span ends when the call is cancelled, and says so."""
    server.delay_s = 5.0
    llm = await until_loaded(LlmReranker("grader", server.base_url, "m", tracer=spans.tracer))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(spans.of(llm, "q", "a", timeout_s=0.1), 5.0)
    (chat,) = spans.finished
    assert (chat.attributes or {})["error.type"] == "cancelled"


async def test_a_pool_that_answers_nonsense(spans: Spans, pool: FakePool) -> None:
    """An error's type, and none of its words: this body repeats the texts."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, model="bge", tracer=spans.tracer))
    pool.fault = Fault.NOT_JSON
    with pytest.raises(BadOutputError):
        await spans.of(reranker, MARKER, MARKER, "b")
    (call,) = spans.finished
    assert (call.name, call.kind, call.status.status_code) == ("rerank bge", SpanKind.CLIENT, StatusCode.ERROR)
    assert (call.attributes or {})["error.type"] == "BadOutputError"
    assert (call.attributes or {})["millirank.documents"] == 2
    assert MARKER not in call.to_json()
