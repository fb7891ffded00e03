"""The remote pool's arm against a real HTTP server without a model: what is asked, what is made of the answers."""

from __future__ import annotations

import asyncio
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider

from router.arms import State, Strategy
from sidecar.rerankers.base import (
    NotReadyError,
)
from sidecar.rerankers.remote import HttpReranker
from sidecar.rerankers.remote_shapes import APIS
from tests.helpers import overlap
from tests.rerankers.fake_pool import FakePool
from tests.rerankers.remote_cases import REQUEST, TEXTS, failure, loaded, request_for


@pytest.mark.parametrize("api", APIS)
async def test_scores_belong_to_their_candidates(pool: FakePool, api: str) -> None:
    """Each API: the endpoint answers best first, and score i is candidate i's all the same."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, api=api))  # type: ignore[arg-type]
    scored = await reranker.score(REQUEST, 5.0)
    assert scored.scores == tuple(overlap(REQUEST.query, text) for text in TEXTS)
    assert len(set(scored.scores)) == 4
    await reranker.close()


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("cohere", {"model": "bge", "query": REQUEST.query, "documents": list(TEXTS), "top_n": 4}),
        (
            "jina",
            {
                "model": "bge",
                "query": REQUEST.query,
                "documents": list(TEXTS),
                "top_n": 4,
                "return_documents": False,
            },
        ),
        ("tei", {"model": "bge", "query": REQUEST.query, "texts": list(TEXTS), "raw_scores": False, "truncate": True}),
    ],
)
async def test_what_is_asked(pool: FakePool, api: str, body: dict[str, object]) -> None:
    """One request with the API's own fields, the key as a bearer token, and no compression asked for."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, "key-1", api=api, model="bge"))  # type: ignore[arg-type]
    await reranker.score(REQUEST, 5.0)
    (received,) = pool.received
    assert received.body == body
    assert received.headers["authorization"] == "Bearer key-1"
    assert received.headers["accept-encoding"] == "identity"
    await reranker.close()


async def test_neither_key_nor_model_are_made_up(pool: FakePool) -> None:
    """Without them the request has neither field."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url))
    await reranker.score(REQUEST, 5.0)
    (received,) = pool.received
    assert "authorization" not in received.headers
    assert "model" not in received.body
    await reranker.close()


async def test_pool_joins_the_trace(remote: HttpReranker, pool: FakePool) -> None:
    """The current span's trace id travels in `traceparent`."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    with tracer.start_as_current_span("score") as span:
        await remote.score(REQUEST, 5.0)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert pool.received[0].headers["traceparent"].split("-")[1] == trace_id


async def test_connections_are_kept(remote: HttpReranker, pool: FakePool) -> None:
    """Calls one after another share the connection that the warm-up has opened."""
    for _ in range(5):
        await remote.score(REQUEST, 5.0)
    assert pool.connections == 1


async def test_calls_run_side_by_side(remote: HttpReranker, pool: FakePool) -> None:
    """Twenty calls to a pool that takes 300 ms take about 300 ms, and each gets its own scores."""
    pool.delay_s = 0.3
    texts = [f"word{number} shared" for number in range(20)]
    started = time.monotonic()
    answers = await asyncio.gather(*(remote.score(request_for(f"{text}", *texts), 5.0) for text in texts))
    assert time.monotonic() - started < 1.5
    for number, answer in enumerate(answers):
        assert [score == 2.0 for score in answer.scores] == [other == number for other in range(20)]


async def test_no_documents(remote: HttpReranker, pool: FakePool) -> None:
    """Nothing to score is answered without a call."""
    assert (await remote.score(request_for("q"), 5.0)).scores == ()
    assert pool.received == []


async def test_no_time_no_call(remote: HttpReranker, pool: FakePool) -> None:
    """With nothing left to spend the pool is not bothered."""
    assert isinstance(await failure(remote.score(REQUEST, 0.0), 0.0), TimeoutError)
    assert pool.received == []


async def test_too_many_candidates_is_the_callers_fault(pool: FakePool) -> None:
    """``limits`` says how many one call takes; more are refused without a call."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, max_documents=3))
    assert reranker.limits.max_chunk_documents == 3
    assert reranker.limits.whole_list
    with pytest.raises(ValueError, match="4 candidates in one call; at most 3"):
        await reranker.score(REQUEST, 5.0)
    assert pool.received == []
    await reranker.close()


def test_identity() -> None:
    """Endpoint, API and model change the revision; key and price do not. It is a cross-encoder like any other."""
    one = HttpReranker("pool", "http://pool/rerank", model="bge").identity
    assert one.strategy is Strategy.CROSS_ENCODER
    same = HttpReranker("pool", "http://pool/rerank", "key", model="bge", micro_usd_per_1k_documents=5.0).identity
    others = [
        HttpReranker("pool", "http://other/rerank", model="bge").identity,
        HttpReranker("pool", "http://pool/rerank", model="jina").identity,
        HttpReranker("pool", "http://pool/rerank", api="jina", model="bge").identity,
    ]
    assert same.revision == one.revision
    assert len({one.revision, *(other.revision for other in others)}) == 4


async def test_close_is_idempotent_and_final(pool: FakePool) -> None:
    """Closed while it is still opening, twice, and then OFF."""
    reranker = HttpReranker("pool", pool.url)
    await reranker.start()
    await reranker.close()
    await reranker.close()
    assert reranker.availability().state is State.OFF
    with pytest.raises(NotReadyError):
        await reranker.score(REQUEST, 1.0)
