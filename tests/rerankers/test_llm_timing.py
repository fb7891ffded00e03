"""The LLM arm keeps its time, frees its connections and runs calls side by side."""

from __future__ import annotations

import asyncio
import time

import pytest

from sidecar.rerankers.llm import LlmReranker
from tests.rerankers.fake_openai import FakeOpenAI, Fault
from tests.rerankers.llm_cases import REQUEST, SLACK_S, failure, request_for, until, until_loaded


async def test_configured_limit_cuts_a_generous_caller(server: FakeOpenAI) -> None:
    """No call takes longer than the reranker's own timeout_s."""
    llm = await until_loaded(LlmReranker("grader", server.base_url, "m", timeout_s=0.2))
    server.fault = Fault.HANG
    error = await failure(llm.score(REQUEST, 60.0), 0.2)
    assert str(error) == "grader: no answer within 200 ms"
    await llm.close()


async def test_no_time_no_call(llm: LlmReranker, server: FakeOpenAI) -> None:
    """With nothing left to spend the backend is not bothered."""
    assert isinstance(await failure(llm.score(REQUEST, 0.0), 0.0), TimeoutError)
    assert server.connections == 0


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
async def test_timeout_closes_the_connection(llm: LlmReranker, server: FakeOpenAI, fault: Fault) -> None:
    """A backend that is too slow learns that nobody waits any more."""
    server.fault = fault
    await failure(llm.score(REQUEST, 0.2), 0.2)
    await asyncio.wait_for(server.disconnected.wait(), 1.0)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
async def test_cancelling_closes_the_connection(llm: LlmReranker, server: FakeOpenAI, fault: Fault) -> None:
    """Cancelling frees the caller at once and the backend sees the disconnect."""
    server.fault = fault
    call = asyncio.create_task(llm.score(REQUEST, 5.0))
    await until(lambda: bool(server.received))
    cancelled = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.disconnected.wait(), 1.0)
    assert time.monotonic() - cancelled < SLACK_S


async def test_calls_run_side_by_side(llm: LlmReranker, server: FakeOpenAI) -> None:
    """Twenty calls to a backend that takes 300 ms take about 300 ms, and each gets its own scores."""
    server.delay_s = 0.3
    queries = [f"word{number} shared" for number in range(20)]
    texts = [f"word{number} shared" for number in range(20)]
    started = time.monotonic()
    answers = await asyncio.gather(*(llm.score(request_for(query, *texts), 5.0) for query in queries))
    assert time.monotonic() - started < 1.5
    for number, answer in enumerate(answers):
        assert [score == 2.0 for score in answer.scores] == [other == number for other in range(20)]
