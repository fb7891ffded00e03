"""What goes wrong behind a request, and what its caller gets nevertheless."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.arms import Availability, State, Strategy
from router.policy import Routing
from sidecar.messages import Answer, Completeness, DegradationReason, Overrun, Request
from sidecar.pipeline import OverrunError, UnavailableError
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    Limits,
    NotReadyError,
    Scored,
    ScoreRequest,
)
from tests.helpers import Clock, Rig, ScriptedReranker, arm_data, profile, request, rig

TEXTS = ("blue", "red green", "red", "red green blue", "white")
FIRST_STAGE = [0, 1, 2, 3, 4]
FORCED = Routing(Strategy.CROSS_ENCODER)


def asked(**fields: Any) -> Request:
    return request("red green", *TEXTS, **fields)


async def answered(parts: Rig, sent: Request) -> Answer:
    return await parts.pipeline.rerank(sent, None, parts.clock())


def order_of(answer: Answer) -> list[int]:
    return [item.position for item in answer.outcome.ranked]


def reasons(answer: Answer) -> list[DegradationReason]:
    return [each.reason for each in answer.outcome.degradations]


def failing(error: BaseException | Scored) -> ScriptedReranker:
    reranker = ScriptedReranker()
    reranker.script = [error]
    return reranker


FAILURES = [
    (BackendError("down"), DegradationReason.BACKEND_ERROR, UnavailableError),
    (TimeoutError(), DegradationReason.BACKEND_TIMEOUT, OverrunError),
    (CircuitOpenError("left alone"), DegradationReason.CIRCUIT_OPEN, UnavailableError),
    (NotReadyError("loading"), DegradationReason.NOT_READY, UnavailableError),
    (BadOutputError("no JSON"), DegradationReason.BAD_OUTPUT, UnavailableError),
    (Scored(scores=(math.nan,) * 5, tokens=1), DegradationReason.BAD_OUTPUT, UnavailableError),
]


@pytest.mark.parametrize(("failure", "reason", "_error"), FAILURES)
async def test_failing_backend_is_first_stage_order_that_says_so(
    failure: Exception | Scored, reason: DegradationReason, _error: type[Exception]
) -> None:
    """Invariants 2 and 5: a valid request is answered, with the reason."""
    answer = await answered(rig(failing(failure)), asked())
    assert order_of(answer) == FIRST_STAGE
    assert answer.outcome.completeness is Completeness.FIRST_STAGE_ONLY
    assert reasons(answer) == [reason]
    assert answer.outcome.degradations[0].detail


@pytest.mark.parametrize(("failure", "reason", "error"), FAILURES)
async def test_failing_backend_with_fail_policy_is_an_error(
    failure: Exception | Scored, reason: DegradationReason, error: type[UnavailableError | OverrunError]
) -> None:
    """Invariant 2: only where FAIL was asked for; time is an overrun, everything else unavailability."""
    with pytest.raises(error) as caught:
        await answered(rig(failing(failure)), asked(overrun=Overrun.FAIL))
    assert caught.value.reason is reason
    assert "overrun policy is FAIL" in str(caught.value)


async def test_complete_answer_with_fail_policy_is_an_answer() -> None:
    """FAIL costs nothing where the plan is carried out, and also where the plan is to do nothing."""
    parts = rig(ScriptedReranker())
    assert (await answered(parts, asked(overrun=Overrun.FAIL))).outcome.scored_k == 5
    none = await answered(parts, asked(overrun=Overrun.FAIL, routing=Routing(Strategy.NONE)))
    assert order_of(none) == FIRST_STAGE


async def test_zero_budget_is_too_small_for_a_forced_arm_too() -> None:
    """Invariant 5: a forced model arm with no time at all answers BUDGET_TOO_SMALL, in first-stage order."""
    answer = await answered(
        rig(ScriptedReranker()), asked(budget_ms=0.0, routing=Routing(Strategy.CROSS_ENCODER, rerank_k=5))
    )
    assert order_of(answer) == FIRST_STAGE
    assert reasons(answer) == [DegradationReason.BUDGET_TOO_SMALL]


async def test_zero_budget_with_fail_policy_is_an_overrun() -> None:
    """No time and no wish for less: DEADLINE_EXCEEDED's exception, with the reason."""
    with pytest.raises(OverrunError) as caught:
        await answered(rig(ScriptedReranker()), asked(budget_ms=0.0, overrun=Overrun.FAIL))
    assert caught.value.reason is DegradationReason.BUDGET_TOO_SMALL


async def test_budget_that_ends_in_the_middle_keeps_the_scored_prefix() -> None:
    """Invariant 3: three of five fit: those reordered, the others behind them, PARTIAL and BUDGET_EXHAUSTED."""
    clock = Clock()
    # Predicted to take 10 ms (1 ms a token) for each document, as it does; forced, as not all of it fits.
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=1), document_ms=10.0, clock=clock)
    slow = arm_data(ms_per_token=1.0)
    parts = rig(reranker, profiles=[profile(scripted=slow)], clock=clock)
    answer = await answered(parts, asked(budget_ms=42.0, routing=Routing(Strategy.CROSS_ENCODER, rerank_k=5)))
    assert order_of(answer) == [1, 2, 0, 3, 4]
    assert answer.outcome.completeness is Completeness.PARTIAL
    assert reasons(answer) == [DegradationReason.BUDGET_EXHAUSTED]
    assert (answer.explanation.decision.planned_k, answer.outcome.scored_k) == (5, 3)
    assert clock.now <= 1000.0 + 0.042
    strict = asked(budget_ms=42.0, routing=Routing(Strategy.CROSS_ENCODER, rerank_k=5), overrun=Overrun.FAIL)
    with pytest.raises(OverrunError, match="3 of 5 candidates scored"):
        await answered(parts, strict)


async def test_arm_that_is_warming_up() -> None:
    """AUTO keeps first-stage order with NOT_READY; forced, it says the same after asking it."""
    reranker = ScriptedReranker()
    reranker.state = Availability(State.WARMING, "loading")
    reranker.script = [NotReadyError("loading")]
    parts = rig(reranker)
    for sent in (asked(), asked(routing=FORCED)):
        answer = await answered(parts, sent)
        assert order_of(answer) == FIRST_STAGE
        assert reasons(answer) == [DegradationReason.NOT_READY]
    with pytest.raises(UnavailableError):
        await answered(parts, asked(overrun=Overrun.FAIL))


async def test_arm_whose_circuit_is_open() -> None:
    """Invariant 5: where only an open circuit stands in the way, AUTO says CIRCUIT_OPEN, not NOT_READY."""
    reranker = ScriptedReranker()
    reranker.state = Availability(State.CIRCUIT_OPEN, "left alone for 10 s")
    answer = await answered(rig(reranker), asked())
    assert order_of(answer) == FIRST_STAGE
    assert reasons(answer) == [DegradationReason.CIRCUIT_OPEN]


async def test_draining_sidecar_answers_in_first_stage_order() -> None:
    """Invariant 8: no new work is begun, forced or not; FAIL is UNAVAILABLE's exception; NONE is a full answer."""
    reranker = ScriptedReranker()
    parts = rig(reranker)
    parts.pipeline.draining = True
    for sent in (asked(), asked(routing=FORCED)):
        answer = await answered(parts, sent)
        assert order_of(answer) == FIRST_STAGE
        assert reasons(answer) == [DegradationReason.DRAINING]
    assert (await answered(parts, asked(routing=Routing(Strategy.NONE)))).outcome.degradations == ()
    with pytest.raises(UnavailableError) as caught:
        await answered(parts, asked(overrun=Overrun.FAIL))
    assert caught.value.reason is DegradationReason.DRAINING
    assert reranker.calls == []


async def test_cancelled_request_starts_no_new_chunk() -> None:
    """Invariant 6: cancelled in its first of five chunks, the other four never start."""
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=1))
    reranker.gate = asyncio.Event()
    task = asyncio.create_task(answered(rig(reranker), asked(budget_ms=60_000.0)))
    await reranker.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reranker.gate.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert (len(reranker.calls), reranker.cancelled, reranker.finished) == (1, 1, 0)


async def test_hanging_call_ends_with_the_budget() -> None:
    """Invariant 6: a model that never answers costs the budget and no more. The bound is a second because the
    machine may be loaded; a call without an end would run into the test's own time limit."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    started = parts.clock()
    answer = await answered(parts, asked(budget_ms=30.0, routing=FORCED))
    assert parts.clock() - started < 1.0
    assert order_of(answer) == FIRST_STAGE
    assert reasons(answer) == [DegradationReason.BACKEND_TIMEOUT]


async def test_price_limit_is_kept() -> None:
    """An arm that costs money is not taken where the caller's purse is empty; the answer says why."""
    reranker = _Priced()
    parts = rig(reranker)
    answer = await answered(parts, asked(max_micro_usd=0))
    assert order_of(answer) == FIRST_STAGE
    assert reasons(answer) == [DegradationReason.BUDGET_TOO_SMALL]
    assert reranker.calls == []
    assert (await answered(parts, asked(max_micro_usd=50))).outcome.scored_k == 5


class _Priced(ScriptedReranker):
    """A micro-USD for each token."""

    def work(self, request: ScoreRequest) -> Any:
        todo = super().work(request)
        return todo.__class__(tokens=todo.tokens, micro_usd_per_token=1.0)


_steps = st.lists(
    st.sampled_from(["ok", "backend", "timeout", "circuit", "nan", "missing", "surplus", "tie"]), max_size=12
)


@given(
    steps=_steps,
    documents=st.integers(0, 12),
    chunk=st.integers(1, 5),
    rerank_k=st.integers(0, 14),
    top_n=st.integers(0, 14),
    forced=st.booleans(),
    budget_ms=st.sampled_from([0.0, 3.0, 15.0, 40.0, 1000.0]),
    carriers=st.sets(st.integers(0, 11)),
)
def test_results_are_a_permutation_whatever_happens(
    steps: list[str],
    documents: int,
    chunk: int,
    rerank_k: int,
    top_n: int,
    forced: bool,
    budget_ms: float,
    carriers: set[int],
) -> None:
    """Invariants 2 to 5 for random requests and random failures: always an answer; its positions are a permutation
    cut by top_n; scored ones come first, the rest in first-stage order; less than planned has a reason."""
    clock = Clock()
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=chunk), document_ms=5.0, clock=clock)
    reranker.script = [_step(step, chunk) for step in steps]
    parts = rig(reranker, profiles=[profile(scripted=arm_data(ms_per_token=0.5))], clock=clock)
    texts = [f"red {'green' * (number % 3)}" for number in range(documents)]
    routing = Routing(Strategy.CROSS_ENCODER if forced else None, rerank_k=rerank_k)
    signals = [{"bm25": float(number % 4)} if number in carriers else {} for number in range(documents)]
    answer = asyncio.run(
        answered(
            parts, request("red green", *texts, signals=signals, routing=routing, budget_ms=budget_ms, top_n=top_n)
        )
    )
    indexes = order_of(answer)
    outcome = answer.outcome
    wanted = min(top_n, documents) if top_n else documents
    assert len(indexes) == len(set(indexes)) == wanted
    assert set(indexes) <= set(range(documents))
    scored = [item.position for item in outcome.ranked if item.score is not None]
    assert indexes[: len(scored)] == scored
    rest = indexes[len(scored) :]
    assert rest == sorted(rest)
    assert set(scored) <= set(range(outcome.scored_k))
    if outcome.scored_k == 0:
        assert indexes == list(range(wanted))
    if outcome.scored_k < answer.explanation.decision.planned_k:
        assert outcome.degradations
    assert all(math.isfinite(item.score) for item in outcome.ranked if item.score is not None)


def _step(step: str, chunk: int) -> BaseException | Scored | None:
    """What one call does. Scores of a fixed length are right for full chunks and missing or surplus for others."""
    match step:
        case "backend":
            return BackendError("down")
        case "timeout":
            return TimeoutError()
        case "circuit":
            return CircuitOpenError("left alone")
        case "nan":
            return Scored(scores=(math.nan,) * chunk, tokens=1)
        case "missing":
            return Scored(scores=(1.0,) * (chunk - 1), tokens=1)
        case "surplus":
            return Scored(scores=(1.0,) * (chunk + 1), tokens=1)
        case "tie":
            return Scored(scores=(1.0,) * chunk, tokens=1)
        case _:
            return None
