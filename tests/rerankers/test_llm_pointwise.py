"""The pointwise LLM arm: a call for each candidate, side by side, within one timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.arms import State
from sidecar.rerankers.base import BackendError, BadOutputError, RerankerError
from sidecar.rerankers.llm import LlmReranker
from tests.rerankers.fake_openai import FakeOpenAI, Fault
from tests.rerankers.llm_cases import AT_ONCE, REQUEST, failure, request_for, until, until_loaded


@pytest.fixture
async def grader(server: FakeOpenAI) -> AsyncIterator[LlmReranker]:
    """Eight calls at a time; 150 and 600 micro-USD per 1,000 tokens, so that each call of the stand-in costs 210."""
    reranker = LlmReranker(
        "grader",
        server.base_url,
        "m",
        prompting="pointwise",
        prompt_price_micro_usd_per_1k=150,
        completion_price_micro_usd_per_1k=600,
    )
    yield await until_loaded(reranker)
    await reranker.close()


async def test_one_call_for_each_candidate(grader: LlmReranker, server: FakeOpenAI) -> None:
    """Each passage is shown alone, under the same label and schema; scores, tokens and price are those of all calls."""
    scored = await grader.score(REQUEST, 5.0)
    assert scored.scores == (1.0, 2.0, 0.0, 3.0)
    assert scored.tokens == 4 * 1100
    assert scored.micro_usd == pytest.approx(4 * 210)
    assert scored.unscored == frozenset()
    assert scored.shortfall == ""
    assert [list(received.passages) for received in server.received] == [["P01"]] * 4
    texts = sorted(document.text for document in REQUEST.documents)
    assert sorted(received.passages["P01"] for received in server.received) == texts
    assert len({(received.system, str(received.schema)) for received in server.received}) == 1


async def test_equal_candidates_score_alike_wherever_they_stand(grader: LlmReranker) -> None:
    """A candidate's score is the same alone, among others and in any place: nothing of the others is shown."""
    together = (await grader.score(request_for("a b c", "a", "c b a", "x", "a"), 5.0)).scores
    assert together == (1.0, 3.0, 0.0, 1.0)
    assert (await grader.score(request_for("a b c", "c b a"), 5.0)).scores == (3.0,)


async def test_more_candidates_than_run_side_by_side_are_refused(grader: LlmReranker, server: FakeOpenAI) -> None:
    """The limit that the reranker declares is kept: it is what bounds the calls at the same time."""
    with pytest.raises(ValueError, match="9 candidates in one call; at most 8"):
        await grader.score(request_for("q", *map(str, range(9))), 5.0)
    assert server.connections == 0


async def test_calls_of_a_chunk_run_side_by_side(grader: LlmReranker, server: FakeOpenAI) -> None:
    """Eight calls to a backend that takes 300 ms are all there before the first is answered."""
    server.delay_s = 0.3
    chunk = asyncio.create_task(grader.score(request_for("q", *map(str, range(8))), 10.0))
    await until(lambda: len(server.received) == 8)
    assert not chunk.done()
    assert len((await chunk).scores) == 8
    assert server.connections == 8


async def test_candidates_that_are_late_are_left_out(grader: LlmReranker, server: FakeOpenAI) -> None:
    """When time is up, what was answered counts and is paid; the rest is unscored, and its connections are closed."""
    server.faults = {"green blue": Fault.HANG, "grey": Fault.DRIP}
    scored = await grader.score(REQUEST, 0.6)
    assert scored.unscored == {1, 2}
    assert (scored.scores[0], scored.scores[3]) == (1.0, 3.0)
    assert len(scored.scores) == 4
    assert scored.shortfall == "grader: 2 of 4 candidates were not answered within 600 ms"
    assert scored.tokens == 2 * 1100
    assert scored.micro_usd == pytest.approx(2 * 210)
    await until(lambda: server.disconnects == 2)


async def test_no_answer_at_all_is_a_timeout(grader: LlmReranker, server: FakeOpenAI) -> None:
    """All calls share one clock: four that hang take as long as one."""
    server.fault = Fault.HANG
    error = await failure(grader.score(REQUEST, 0.3), 0.3)
    assert isinstance(error, TimeoutError)
    assert str(error) == "grader: no answer within 300 ms"
    await until(lambda: server.disconnects == 4)


@pytest.mark.parametrize(
    ("fault", "kind", "calls_paid"),
    [(Fault.STATUS, BackendError, 3), (Fault.TOO_FEW, BadOutputError, 4)],
    ids=["no answer", "unusable answer"],
)
async def test_one_failing_call_fails_the_chunk(
    grader: LlmReranker, server: FakeOpenAI, fault: Fault, kind: type[RerankerError], calls_paid: int
) -> None:
    """The error is that call's; it carries the price of all that was answered before, its own included."""
    server.faults, server.delays_s = {"grey": fault}, {"grey": 0.3}
    error = await failure(grader.score(REQUEST, 5.0), 0.3 + AT_ONCE)
    assert type(error) is kind
    assert error.micro_usd == pytest.approx(calls_paid * 210)


async def test_a_failing_call_stops_the_others(grader: LlmReranker, server: FakeOpenAI) -> None:
    """Nobody waits for answers that will not be used: their connections are closed at once."""
    server.fault, server.faults, server.delays_s = Fault.HANG, {"grey": Fault.STATUS}, {"grey": 0.3}
    assert type(await failure(grader.score(REQUEST, 30.0), 0.3 + AT_ONCE)) is BackendError
    await until(lambda: server.disconnects == 3)


async def test_cancelling_closes_every_connection(grader: LlmReranker, server: FakeOpenAI) -> None:
    """Invariant 6: when the caller leaves, none of the remote calls goes on."""
    server.fault = Fault.HANG
    call = asyncio.create_task(grader.score(REQUEST, 30.0))
    await until(lambda: len(server.received) == 4)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: server.disconnects == 4)


async def test_a_chunk_is_one_failure_to_the_breaker(grader: LlmReranker, server: FakeOpenAI) -> None:
    """Four calls that fail together are one bad moment: it takes five such chunks to open the circuit."""
    server.fault = Fault.STATUS
    for _ in range(4):
        await failure(grader.score(REQUEST, 5.0), AT_ONCE)
    assert grader.availability().state is State.READY
    await failure(grader.score(REQUEST, 5.0), AT_ONCE)
    assert grader.availability().detail.startswith("5 failures in a row")
