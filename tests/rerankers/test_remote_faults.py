"""The remote pool's arm when answers are wrong, late or missing: what is raised, and what the circuit makes of it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest

from router.arms import State
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
)
from sidecar.rerankers.remote import HttpReranker
from tests.helpers import MARKER, Clock
from tests.rerankers.fake_pool import FakePool, Fault
from tests.rerankers.local_models import settled, until
from tests.rerankers.remote_cases import AT_ONCE, REQUEST, SLACK_S, failure, loaded, request_for
from tests.rerankers.silence import assert_silent

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
    assert_silent(error, caplog.text)
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
