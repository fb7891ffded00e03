"""Kept answers and shared computations (DESIGN section 6, invariant 9)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.arms import Strategy
from router.policy import Decision, Reason
from sidecar.cache import ResultCache, SingleFlight, result_key
from sidecar.messages import Candidate, Completeness, Outcome, Ranked, Request, ScoreSource
from sidecar.planner import _as_documents
from tests.helpers import Clock, request

DECISION = Decision(
    strategy=Strategy.CROSS_ENCODER,
    reranker="scripted",
    planned_k=2,
    reason=Reason.BEST_EXPECTED_GAIN,
    predicted_p50_ms=1.0,
    predicted_p95_ms=2.0,
    expected_gain=0.1,
    considered=(),
    signal_set="bm25",
)


def key(asked: Request, decision: Decision = DECISION, model: str = "m", profile: str = "p") -> bytes:
    return result_key(asked, _as_documents(asked), decision, model, profile)


def asked(**fields: Any) -> Request:
    return request("q", "one", "two", signals=[{"bm25": 2.0}, {"bm25": 1.0}], **fields)


def outcome(size: int = 2, completeness: Completeness = Completeness.FULL) -> Outcome:
    ranked = tuple(Ranked(index, 1.0, 1.0, ScoreSource.RERANKER) for index in range(size))
    return Outcome(ranked, scored_k=size, completeness=completeness)


def test_equal_requests_have_equal_keys() -> None:
    """The caller's ids, its view (top_n, min_score), its budget and its policy do not change what is computed."""
    other = asked(request_id="r-2", top_n=1, min_score=0.5, budget_ms=7.0, max_micro_usd=1, corpus="x")
    renamed = replace(other, candidates=tuple(each._replace(id="other") for each in other.candidates))
    assert key(asked()) == key(renamed)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"query": "other"},
        {"instruction": "other"},
        {"candidates": (Candidate("0", "two", {"bm25": 2.0}), Candidate("1", "one", {"bm25": 1.0}))},
        {"candidates": (Candidate("0", "one", {"bm25": 2.0}), Candidate("1", "two", {"bm25": 1.5}))},
        {"candidates": (Candidate("0", "one", {"bm25": 2.0}), Candidate("1", "two", {}))},
        {"candidates": (Candidate("0", "one", {"dense": 2.0}), Candidate("1", "two", {"bm25": 1.0}))},
        {"candidates": (Candidate("0", "one", {"bm25": 2.0}),)},
    ],
)
def test_what_the_request_holds_is_in_the_key(change: dict[str, Any]) -> None:
    """Tenant, query, instruction, texts, their order and their signals each make another key."""
    assert key(replace(asked(), **change)) != key(asked())


@pytest.mark.parametrize(
    "change",
    [{"strategy": Strategy.LLM}, {"reranker": "other"}, {"planned_k": 1}, {"signal_set": ""}],
)
def test_the_arm_is_in_the_key(change: dict[str, Any]) -> None:
    """Strategy, reranker, rerank_k and the set of fusion weights each make another key."""
    assert key(asked(), DECISION._replace(**change)) != key(asked())


def test_model_and_profile_are_in_the_key() -> None:
    """New weights, tokenizer, prompt (model revision) or fusion weights (profile revision): nothing old is reused."""
    assert len({key(asked()), key(asked(), model="m2"), key(asked(), profile="p2")}) == 3


def test_neighbouring_fields_do_not_run_together() -> None:
    """('ab', 'c') and ('a', 'bc') are different requests."""
    assert key(replace(asked(), query="ab", instruction="c")) != key(replace(asked(), query="a", instruction="bc"))


def test_degraded_outcomes_are_not_kept() -> None:
    """PARTIAL and FIRST_STAGE_ONLY answers are forgotten; a complete one is kept."""
    cache = ResultCache(1_000_000, 60.0)
    for number, completeness in enumerate(Completeness):
        cache.put(bytes([number]), outcome(completeness=completeness))
    assert [completeness for n, completeness in enumerate(Completeness) if cache.get(bytes([n]))] == [Completeness.FULL]


def test_memory_is_bounded() -> None:
    """Invariant 10: ten times what fits leaves no more than fits; one that never fits is not tried; 0 keeps nothing."""
    cache = ResultCache(20_000, 60.0)
    for number in range(100):
        cache.put(number.to_bytes(2), outcome(10))
    assert 1 <= len(cache) <= 8  # an entry of ten candidates is taken to be about 2.6 kB
    before = len(cache)
    cache.put(b"large", outcome(1000))
    assert len(cache) == before
    off = ResultCache(0, 60.0)
    off.put(b"x", outcome(0))
    assert len(off) == 0


def test_entries_end() -> None:
    """After its time an answer is gone."""
    clock = Clock()
    cache = ResultCache(1_000_000, 60.0, clock)
    cache.put(b"x", outcome())
    clock.pass_ms(59_000)
    assert cache.get(b"x") is not None
    clock.pass_ms(2_000)
    assert cache.get(b"x") is None


class Computation:
    """An outcome that comes when it is told to, and knows how often it was asked for and cancelled."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.error: BaseException | None = None
        self.runs = 0
        self.cancelled = asyncio.Event()

    async def __call__(self) -> Outcome:
        self.runs += 1
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return outcome()


async def test_concurrent_equal_requests_are_computed_once() -> None:
    """One computation, one result, and each caller knows whether it was the one who started it."""
    flights, compute = SingleFlight(), Computation()
    tasks = [asyncio.create_task(flights.run(b"k", compute, 60.0)) for _ in range(5)]
    await compute.entered.wait()
    compute.gate.set()
    results = await asyncio.gather(*tasks)
    assert compute.runs == 1
    assert [shared for _, shared in results] == [False, True, True, True, True]
    assert len({id(result) for result, _ in results}) == 1


async def test_other_keys_and_later_requests_are_computed_themselves() -> None:
    """Sharing is for equal keys at the same time only: afterwards it is the cache's business."""
    flights, compute = SingleFlight(), Computation()
    compute.gate.set()
    assert (await flights.run(b"k", compute, 60.0))[1] is False
    assert (await flights.run(b"k", compute, 60.0))[1] is False
    await asyncio.gather(flights.run(b"a", compute, 60.0), flights.run(b"b", compute, 60.0))
    assert compute.runs == 4


async def test_cancelled_leader_does_not_cancel_its_follower() -> None:
    """Invariant 9: who started the computation may go; who waits for it still gets it."""
    flights, compute = SingleFlight(), Computation()
    leader = asyncio.create_task(flights.run(b"k", compute, 60.0))
    await compute.entered.wait()
    follower = asyncio.create_task(flights.run(b"k", compute, 60.0))
    await asyncio.sleep(0)  # the follower joins
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    compute.gate.set()
    assert (await follower)[1] is True
    assert not compute.cancelled.is_set()


async def test_computation_without_waiters_is_cancelled() -> None:
    """Invariant 6: when the last caller has gone the work stops, and nobody can join what is being cancelled."""
    flights, compute = SingleFlight(), Computation()
    leader = asyncio.create_task(flights.run(b"k", compute, 60.0))
    await compute.entered.wait()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    again = Computation()
    again.gate.set()
    assert (await flights.run(b"k", again, 60.0))[1] is False
    assert compute.cancelled.is_set()


async def test_follower_waits_for_its_own_time_only() -> None:
    """A follower with less time leaves with TimeoutError, and the leader is not disturbed."""
    flights, compute = SingleFlight(), Computation()
    leader = asyncio.create_task(flights.run(b"k", compute, 60.0))
    await compute.entered.wait()
    with pytest.raises(TimeoutError):
        await flights.run(b"k", compute, 0.001)
    compute.gate.set()
    assert (await leader)[1] is False


async def test_failure_reaches_everyone() -> None:
    """An exception of the computation is raised to each of its callers, and is not kept for the next one."""
    flights, compute = SingleFlight(), Computation()
    compute.error = ValueError("broken")
    tasks = [asyncio.create_task(flights.run(b"k", compute, 60.0)) for _ in range(2)]
    await compute.entered.wait()
    compute.gate.set()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, ValueError)
    compute.error = None
    assert (await flights.run(b"k", compute, 60.0))[1] is False


async def test_failure_that_nobody_waits_for_is_not_reported_with_its_words() -> None:
    """Invariant 11: asyncio quotes exceptions that nobody took; one of an abandoned computation is taken."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    flights, ended = SingleFlight(), asyncio.Event()
    entered = asyncio.Event()

    async def fails_when_cancelled() -> Outcome:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            raise ValueError("zyzzyva")

    leader = asyncio.create_task(flights.run(b"k", fails_when_cancelled, 60.0))
    await entered.wait()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await ended.wait()
    del leader
    await asyncio.sleep(0.01)  # the task's last reference goes with its callbacks
    assert reported == []
