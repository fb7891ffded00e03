"""The circuit breaker in the LLM arm."""

from __future__ import annotations

import asyncio

from router.arms import State
from sidecar.rerankers.base import CircuitOpenError
from sidecar.rerankers.llm import LlmReranker
from tests.helpers import Clock
from tests.rerankers.fake_openai import FakeOpenAI, Fault
from tests.rerankers.llm_cases import AT_ONCE, REQUEST, failure, until


async def test_circuit_opens_probes_and_closes(timed: LlmReranker, server: FakeOpenAI, clock: Clock) -> None:
    """Five failures open it: no request for 10 s, then one probe, whose success makes the arm READY again."""
    server.fault = Fault.STATUS
    for _ in range(5):
        await failure(timed.score(REQUEST, 5.0), AT_ONCE)
    assert timed.availability().state is State.CIRCUIT_OPEN
    assert timed.availability().detail == "5 failures in a row; next probe in 10.0 s"
    assert isinstance(await failure(timed.score(REQUEST, 5.0), 0.0), CircuitOpenError)
    assert len(server.received) == 5
    clock.now += 10.0
    assert timed.availability().state is State.READY
    server.fault = Fault.NONE
    await timed.score(REQUEST, 5.0)
    assert len(server.received) == 6
    for _ in range(4):
        server.fault = Fault.STATUS
        await failure(timed.score(REQUEST, 5.0), AT_ONCE)
    assert timed.availability().state is State.READY


async def test_one_probe_while_it_is_under_way(timed: LlmReranker, server: FakeOpenAI, clock: Clock) -> None:
    """While the probe runs everybody else is refused; a cancelled probe leaves its turn to the next call."""
    server.fault = Fault.STATUS
    for _ in range(5):
        await failure(timed.score(REQUEST, 5.0), AT_ONCE)
    clock.now += 10.0
    server.fault = Fault.HANG
    probe = asyncio.create_task(timed.score(REQUEST, 5.0))
    await until(lambda: len(server.received) == 6)
    assert timed.availability().detail == "5 failures in a row; a probe is under way"
    assert isinstance(await failure(timed.score(REQUEST, 5.0), 0.0), CircuitOpenError)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert timed.availability().state is State.READY
    server.fault = Fault.NONE
    assert len((await timed.score(REQUEST, 5.0)).scores) == 4


async def test_timeouts_of_a_hanging_backend_open_the_circuit(llm: LlmReranker, server: FakeOpenAI) -> None:
    """A backend that hangs says nothing else than timeouts: five of them open the circuit."""
    server.fault = Fault.HANG
    await asyncio.gather(*(failure(llm.score(REQUEST, 0.1), 0.1) for _ in range(5)))
    assert llm.availability().state is State.CIRCUIT_OPEN


async def test_tiny_budgets_do_not_open_the_circuit_for_others(llm: LlmReranker, server: FakeOpenAI) -> None:
    """A caller who grants less than the backend usually takes times out alone."""
    server.delay_s = 0.3
    await llm.score(REQUEST, 5.0)
    await asyncio.gather(*(failure(llm.score(REQUEST, 0.05), 0.05) for _ in range(10)))
    assert llm.availability().state is State.READY
    server.delay_s = 5.0
    await asyncio.gather(*(failure(llm.score(REQUEST, 0.8), 0.8) for _ in range(5)))
    assert llm.availability().state is State.CIRCUIT_OPEN


async def test_cancelled_calls_do_not_open_the_circuit(llm: LlmReranker, server: FakeOpenAI) -> None:
    """Callers who hang up say nothing about the backend."""
    server.fault = Fault.HANG
    calls = [asyncio.create_task(llm.score(REQUEST, 5.0)) for _ in range(10)]
    await until(lambda: len(server.received) == 10)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert llm.availability().state is State.READY
