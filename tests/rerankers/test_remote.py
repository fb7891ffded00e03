"""The remote pool's arm against a real HTTP server without a model: what is asked, what is made of the answers."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from router.arms import State, Strategy
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    Document,
    NotReadyError,
    RerankerError,
    ScoreRequest,
)
from sidecar.rerankers.remote import HttpReranker
from sidecar.rerankers.remote_shapes import APIS
from tests.helpers import MARKER, Clock, overlap
from tests.rerankers.fake_pool import FakePool, Fault
from tests.rerankers.local_models import document, settled, until

SLACK_S = 0.25  # what a loaded two-core machine may add to a time that is asserted
AT_ONCE = 0.5  # seconds within which an answer counts as immediate there
TEXTS = ("red", "green blue", "grey", "red green blue")


def request_for(query: str, *texts: str) -> ScoreRequest:
    return ScoreRequest(query, "", [document(text) for text in texts])


REQUEST = request_for("red green blue", *TEXTS)


async def loaded(pool: FakePool, reranker: HttpReranker) -> HttpReranker:
    """Started, no longer WARMING, and what the warm-up has asked forgotten."""
    await reranker.start()
    await settled(reranker)
    pool.received.clear()
    return reranker


async def failure(call: asyncio.Future[object] | object, within_s: float) -> BaseException:
    """What ``call`` raises; fails if that comes after ``within_s`` plus slack, or is a timeout before it."""
    started = time.monotonic()
    with pytest.raises((RerankerError, TimeoutError)) as caught:
        await call  # type: ignore[misc]
    elapsed_s = time.monotonic() - started
    assert elapsed_s < within_s + SLACK_S
    if isinstance(caught.value, TimeoutError):
        assert elapsed_s > within_s - 0.02
    return caught.value


@pytest_asyncio.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakePool]:
    """A fake pool that scores honestly until told otherwise; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakePool() as fake:
        yield fake


@pytest_asyncio.fixture
async def remote(pool: FakePool) -> AsyncIterator[HttpReranker]:
    """The arm, ready, with a key."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, "key-1", model="bge"))
    yield reranker
    await reranker.close()


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


FAULTS = [
    (Fault.HANG, TimeoutError, 0.3, "pool: no answer within 300 ms"),
    (Fault.DRIP, TimeoutError, 0.3, "pool: no answer within 300 ms"),
    (Fault.DROP, BackendError, AT_ONCE, "RemoteProtocolError"),
    (Fault.TRUNCATED, BackendError, AT_ONCE, "RemoteProtocolError"),
    (Fault.STATUS, BackendError, AT_ONCE, "HTTP 503"),
    (Fault.REDIRECT, BackendError, AT_ONCE, "HTTP 307: url redirects"),
    (Fault.FLOOD, BadOutputError, AT_ONCE, "longer than 1048576 bytes"),
    (Fault.COMPRESSED, BadOutputError, AT_ONCE, "not JSON"),
    (Fault.NOT_JSON, BadOutputError, AT_ONCE, "not JSON"),
    (Fault.NESTED, BadOutputError, AT_ONCE, "not JSON"),
    (Fault.OTHER_SHAPE, BadOutputError, AT_ONCE, "is `api: cohere` what this endpoint speaks?"),
    (Fault.TOO_FEW, BadOutputError, AT_ONCE, "1 results for 2 documents"),
    (Fault.SURPLUS, BadOutputError, AT_ONCE, "3 results for 2 documents"),
    (Fault.TWICE, BadOutputError, AT_ONCE, "indexes are not each of 0 to 1 once"),
    (Fault.OUT_OF_RANGE, BadOutputError, AT_ONCE, "indexes are not each of 0 to 1 once"),
    (Fault.NEGATIVE_INDEX, BadOutputError, AT_ONCE, "indexes are not each of 0 to 1 once"),
    (Fault.TEXT_INDEX, BadOutputError, AT_ONCE, "indexes are not each of 0 to 1 once"),
    (Fault.BOOLEAN_INDEX, BadOutputError, AT_ONCE, "indexes are not each of 0 to 1 once"),
    (Fault.NO_SCORE, BadOutputError, AT_ONCE, "1 of 2 results have no finite relevance_score"),
    (Fault.NULL, BadOutputError, AT_ONCE, "1 of 2 results have no finite"),
    (Fault.TEXT, BadOutputError, AT_ONCE, "1 of 2 results have no finite"),
    (Fault.BOOLEAN, BadOutputError, AT_ONCE, "1 of 2 results have no finite"),
    (Fault.NOT_A_NUMBER, BadOutputError, AT_ONCE, "1 of 2 results have no finite"),
    (Fault.INFINITE, BadOutputError, AT_ONCE, "1 of 2 results have no finite"),
    (Fault.HUGE, BadOutputError, AT_ONCE, "1 of 2 results have no finite"),
]


def test_every_fault_has_a_row() -> None:
    """A fault added to the fake pool needs an expectation."""
    assert {fault for fault, *_ in FAULTS} == set(Fault) - {Fault.NONE}


@pytest.mark.parametrize(("fault", "kind", "within_s", "words"), FAULTS, ids=[row[0].value for row in FAULTS])
async def test_fault(
    remote: HttpReranker,
    pool: FakePool,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    kind: type[Exception],
    within_s: float,
    words: str,
) -> None:
    """Each fault is one precise error, in time, after one request, without any of the request's text or key."""
    caplog.set_level(logging.DEBUG)
    pool.fault = fault
    error = await failure(remote.score(request_for(f"{MARKER} q", f"{MARKER} q", MARKER), 0.3), within_s)
    assert type(error) is kind
    assert words in str(error)
    assert len(pool.received) == 1
    chain: BaseException | None = error
    while chain is not None:
        assert MARKER not in f"{chain} {chain!r} {vars(chain)}"
        chain = chain.__cause__ or chain.__context__
    assert MARKER not in caplog.text
    assert "key-1" not in caplog.text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "HTTP 400: check api and model"),
        (401, "HTTP 401: check the key in api_key_env"),
        (404, "HTTP 404: check url"),
        (413, "HTTP 413: lower max_documents"),
        (418, "HTTP 418"),
        (422, "HTTP 422: check api and model"),
        (429, "HTTP 429: the endpoint's rate limit"),
        (500, "HTTP 500"),
    ],
)
async def test_http_status(remote: HttpReranker, pool: FakePool, status: int, words: str) -> None:
    """A status is named with its fix; there is no retry, even if the server asks for it, and no quote."""
    pool.fault, pool.status = Fault.STATUS, status
    error = await failure(remote.score(request_for(MARKER, MARKER), 5.0), AT_ONCE)
    assert type(error) is BackendError
    assert str(error).startswith(words)
    assert MARKER not in str(error)
    assert (error.__cause__, error.__context__) == (None, None)
    assert len(pool.received) == 1


async def test_nobody_listens() -> None:
    """A refused connection is a BackendError that does not name the address; the arm is READY all the same."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        port = taken.getsockname()[1]
        reranker = HttpReranker("pool", f"http://127.0.0.1:{port}/rerank")
        await reranker.start()
        await settled(reranker)
        assert reranker.availability().state is State.READY
        assert reranker.warm_up_samples() == ()
        error = await failure(reranker.score(REQUEST, 5.0), AT_ONCE)
        assert type(error) is BackendError
        assert "ConnectError" in str(error)
        assert str(port) not in str(error)
        await reranker.close()


async def test_configured_limit_cuts_a_generous_caller(pool: FakePool) -> None:
    """No call takes longer than the reranker's own timeout_s."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, timeout_s=0.2))
    pool.fault = Fault.HANG
    assert str(await failure(reranker.score(REQUEST, 60.0), 0.2)) == "pool: no answer within 200 ms"
    await reranker.close()


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
async def test_timeout_closes_the_connection(remote: HttpReranker, pool: FakePool, fault: Fault) -> None:
    """A pool that is too slow learns that nobody waits any more."""
    pool.fault = fault
    await failure(remote.score(REQUEST, 0.2), 0.2)
    await asyncio.wait_for(pool.disconnected.wait(), 1.0)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
async def test_cancelling_closes_the_connection(remote: HttpReranker, pool: FakePool, fault: Fault) -> None:
    """Cancelling frees the caller at once and the pool sees the disconnect (invariant 6)."""
    pool.fault = fault
    call = asyncio.create_task(remote.score(REQUEST, 5.0))
    await until(lambda: bool(pool.received))
    cancelled = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(pool.disconnected.wait(), 1.0)
    assert time.monotonic() - cancelled < SLACK_S


async def test_circuit_opens_probes_and_closes(pool: FakePool) -> None:
    """Five failures open it: no request for 10 s, then one probe, whose success makes the arm READY again."""
    clock = Clock()
    reranker = await loaded(pool, HttpReranker("pool", pool.url, clock=clock))
    pool.fault = Fault.STATUS
    for _ in range(5):
        await failure(reranker.score(REQUEST, 5.0), AT_ONCE)
    assert reranker.availability().state is State.CIRCUIT_OPEN
    assert isinstance(await failure(reranker.score(REQUEST, 5.0), 0.0), CircuitOpenError)
    assert len(pool.received) == 5
    clock.now += 10.0
    assert reranker.availability().state is State.READY
    pool.fault = Fault.NONE
    await reranker.score(REQUEST, 5.0)
    assert len(pool.received) == 6
    await reranker.close()


async def test_cancelled_probe_leaves_its_turn(pool: FakePool) -> None:
    """While the probe of an open circuit runs everybody else is refused; cancelled, it does not keep it open."""
    clock = Clock()
    reranker = await loaded(pool, HttpReranker("pool", pool.url, clock=clock))
    pool.fault = Fault.STATUS
    for _ in range(5):
        await failure(reranker.score(REQUEST, 5.0), AT_ONCE)
    clock.now += 10.0
    pool.fault = Fault.HANG
    probe = asyncio.create_task(reranker.score(REQUEST, 5.0))
    await until(lambda: len(pool.received) == 6)
    assert isinstance(await failure(reranker.score(REQUEST, 5.0), 0.0), CircuitOpenError)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert reranker.availability().state is State.READY
    await reranker.close()


async def test_tiny_budgets_do_not_open_the_circuit_for_others(remote: HttpReranker, pool: FakePool) -> None:
    """A caller who grants less than the pool usually takes times out alone; one who grants enough does not."""
    pool.delay_s = 0.3
    for _ in range(12):  # until the moving mean has forgotten how fast the warm-up was
        await remote.score(REQUEST, 5.0)
    await asyncio.gather(*(failure(remote.score(REQUEST, 0.05), 0.05) for _ in range(10)))
    assert remote.availability().state is State.READY
    pool.delay_s = 5.0
    await asyncio.gather(*(failure(remote.score(REQUEST, 0.8), 0.8) for _ in range(5)))
    assert remote.availability().state is State.CIRCUIT_OPEN


async def test_cancelled_calls_do_not_open_the_circuit(remote: HttpReranker, pool: FakePool) -> None:
    """Callers who hang up say nothing about the pool."""
    pool.fault = Fault.HANG
    calls = [asyncio.create_task(remote.score(REQUEST, 5.0)) for _ in range(10)]
    await until(lambda: len(pool.received) == 10)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert remote.availability().state is State.READY


async def test_a_free_pool_is_measured_first(pool: FakePool) -> None:
    """The warm-up asks for made-up texts of several sizes and keeps (tokens, milliseconds) of them."""
    reranker = HttpReranker("pool", pool.url, max_documents=16)
    await reranker.start()
    assert reranker.availability().state is State.WARMING
    await settled(reranker)
    samples = reranker.warm_up_samples()
    assert len(samples) == len(pool.received) - 1
    assert len({tokens for tokens, _ in samples}) >= 3
    assert all(tokens > 0 and elapsed_ms > 0 for tokens, elapsed_ms in samples)
    assert max(len(received.body["documents"]) for received in pool.received) == 16
    await reranker.close()


async def test_a_pool_with_a_price_is_not_called_before_somebody_asks(pool: FakePool) -> None:
    """No money is spent on warming up."""
    reranker = HttpReranker("pool", pool.url, micro_usd_per_1k_documents=1.0)
    await reranker.start()
    await settled(reranker)
    assert reranker.availability().state is State.READY
    assert pool.connections == 0
    assert reranker.warm_up_samples() == ()
    await reranker.close()


async def test_price_of_an_answer(pool: FakePool) -> None:
    """Every document has its price, also where the answer could not be used; a call that failed counts as free."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, micro_usd_per_1k_documents=2_000.0))
    assert (await reranker.score(REQUEST, 5.0)).micro_usd == 8.0
    for fault, price in ((Fault.TWICE, 8.0), (Fault.FLOOD, 8.0), (Fault.STATUS, 0.0)):
        pool.fault = fault
        error = await failure(reranker.score(REQUEST, 5.0), AT_ONCE)
        assert isinstance(error, RerankerError)
        assert error.micro_usd == price
    await reranker.close()


@given(lengths=st.lists(st.integers(0, 8_192), min_size=1, max_size=60), price=st.floats(0.001, 1e6))
def test_no_k_is_promised_cheaper_than_it_is(lengths: list[int], price: float) -> None:
    """Whatever the lengths, the first k documents' tokens times the price per token is at least k times the price of
    a document; and for one of the ks it is no more."""
    reranker = HttpReranker("pool", "http://pool/rerank", micro_usd_per_1k_documents=price)
    work = reranker.work("query", "", [Document("d", "x" * length, b"") for length in lengths])
    promised = [work.tokens_at(k) * work.micro_usd_per_token for k in range(1, len(lengths) + 1)]
    actual = [k * price / 1000 for k in range(1, len(lengths) + 1)]
    assert all(high >= low * (1 - 1e-9) for high, low in zip(promised, actual, strict=True))
    assert any(math.isclose(high, low) for high, low in zip(promised, actual, strict=True))


@pytest.mark.parametrize(
    "url", ["", "pool:8080/rerank", "ftp://pool/rerank", "http://", "http://pool:0", "http://[::1"]
)
async def test_no_url_is_off(url: str) -> None:
    """What is no URL switches the arm off with field and fix, and `start` changes nothing."""
    reranker = HttpReranker("pool", url)
    await reranker.start()
    assert reranker.availability().state is State.OFF
    assert "url is no http:// or https:// URL" in reranker.availability().detail
    with pytest.raises(NotReadyError, match="url is no"):
        await reranker.score(REQUEST, 1.0)
    await reranker.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HttpReranker("pool", "http://p", api="solr"), "api is 'solr'; choose cohere, jina, tei"),  # type: ignore[arg-type]
        (lambda: HttpReranker("pool", "http://p", micro_usd_per_1k_documents=-1.0), "micro_usd_per_1k_documents is -1"),
        (lambda: HttpReranker("pool", "http://p", max_documents=0), "max_documents is 0"),
        (lambda: HttpReranker("pool", "http://p", timeout_s=0.0), "timeout_s is 0.0"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], HttpReranker], words: str) -> None:
    """They are refused by name."""
    with pytest.raises(ValueError, match=words):
        make()


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
