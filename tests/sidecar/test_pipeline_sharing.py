"""Equal requests through the pipeline: kept answers, shared answers, and what must never be either."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.arms import Strategy
from router.policy import Routing
from sidecar.messages import Answer, CacheStatus, DegradationReason, Overrun, Request
from sidecar.rerankers.base import BackendError, Limits
from sidecar.settings import CacheSettings, Settings
from tests.helpers import Rig, ScriptedReranker, arm_data, profile, request, rig

TEXTS = ("blue", "red green", "red")
HOUR_MS = 3_600_000.0


def asked(**fields: Any) -> Request:
    return request("red green", *TEXTS, **{"budget_ms": HOUR_MS, **fields})


async def answered(parts: Rig, sent: Request) -> Answer:
    return await parts.pipeline.rerank(sent, None, parts.clock())


def order_of(answer: Answer) -> list[int]:
    return [item.position for item in answer.outcome.ranked]


async def test_repeated_request_is_a_hit_that_costs_nothing() -> None:
    """The second equal request gets the kept order: no model call, no tokens, no time in queue or model."""
    reranker = ScriptedReranker()
    parts = rig(reranker)
    first, second = await answered(parts, asked()), await answered(parts, asked(request_id="r-2"))
    assert (first.cache, second.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert order_of(first) == order_of(second)
    assert second.request_id == "r-2"
    assert len(reranker.calls) == 1
    usage = second.outcome.usage
    assert (usage.tokens, usage.micro_usd, usage.pairs, usage.cached_pairs) == (0, 0, 3, 3)
    assert (second.outcome.queue_ms, second.outcome.score_ms) == (0.0, 0.0)


async def test_hit_is_seen_through_the_own_top_n_and_min_score() -> None:
    """A kept answer is complete: each caller cuts it for itself, with its own ids."""
    parts = rig(ScriptedReranker())
    await answered(parts, asked(top_n=1))
    hit = await answered(parts, asked())
    cut = await answered(parts, asked(min_score=1.0))
    assert {hit.cache, cut.cache} == {CacheStatus.HIT}
    assert order_of(hit) == [1, 2, 0]
    assert order_of(cut) == [1, 2]


@pytest.mark.parametrize(
    "change",
    [{"tenant": "b"}, {"instruction": "prefer recent ones"}, {"corpus": "other"}, {"query": "green red"}],
)
async def test_other_requests_do_not_hit(change: dict[str, Any]) -> None:
    """Invariant 9: not across tenants, instructions, a corpus with its own weights, or queries."""
    reranker = ScriptedReranker()
    parts = rig(reranker, profiles=[profile(), profile("other", scripted=arm_data(weights={"bm25": 2.0}))])
    await answered(parts, asked(tenant="a"))
    other = await answered(parts, replace(asked(tenant="a"), **change))
    assert other.cache is CacheStatus.MISS
    assert len(reranker.calls) == 2


async def test_bypass_neither_reads_nor_writes() -> None:
    """CACHE_CONTROL_BYPASS computes anew and keeps nothing."""
    reranker = ScriptedReranker()
    parts = rig(reranker)
    await answered(parts, asked(use_cache=False))
    assert (await answered(parts, asked())).cache is CacheStatus.MISS
    assert (await answered(parts, asked(use_cache=False))).cache is CacheStatus.MISS
    assert len(reranker.calls) == 3


async def test_cache_of_no_bytes_keeps_nothing() -> None:
    """results_bytes = 0 switches keeping off."""
    parts = rig(ScriptedReranker(), settings=Settings(cache=CacheSettings(results_bytes=0)))
    await answered(parts, asked())
    assert (await answered(parts, asked())).cache is CacheStatus.MISS


async def test_degraded_answers_are_not_kept() -> None:
    """Invariant 9: neither a failed nor a partial answer is given to the next caller; the complete one is."""
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=1))
    reranker.script = [BackendError("down"), None, BackendError("down")]
    parts = rig(reranker)
    failed, partial = await answered(parts, asked()), await answered(parts, asked())
    assert [each.reason for each in failed.outcome.degradations] == [DegradationReason.BACKEND_ERROR]
    assert partial.outcome.scored_k == 1
    complete, hit = await answered(parts, asked()), await answered(parts, asked())
    assert (complete.cache, complete.outcome.scored_k) == (CacheStatus.MISS, 3)
    assert hit.cache is CacheStatus.HIT


async def test_concurrent_equal_requests_share_one_computation() -> None:
    """The model runs once; who came later is told that the answer is shared and costs nothing."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    tasks = [asyncio.create_task(answered(parts, asked())) for _ in range(5)]
    await reranker.entered.wait()
    reranker.gate.set()
    answers = await asyncio.gather(*tasks)
    assert len(reranker.calls) == 1
    assert [each.cache for each in answers] == [CacheStatus.MISS, *[CacheStatus.SHARED] * 4]
    assert {tuple(order_of(each)) for each in answers} == {(1, 2, 0)}
    assert [each.outcome.usage.tokens for each in answers] == [30, 0, 0, 0, 0]


async def test_cancelled_leader_does_not_cancel_its_follower() -> None:
    """Invariant 9: the first caller goes away in the middle, the second one still gets a full answer."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    leader = asyncio.create_task(answered(parts, asked()))
    await reranker.entered.wait()
    follower = asyncio.create_task(answered(parts, asked()))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    reranker.gate.set()
    answer = await follower
    assert (answer.cache, answer.outcome.scored_k) == (CacheStatus.SHARED, 3)
    assert len(reranker.calls) == 1


async def test_follower_does_not_inherit_the_leaders_degradation() -> None:
    """A leader that failed is not the follower's failure: it computes for itself, in the time that it has."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    reranker.script = [BackendError("down")]
    parts = rig(reranker)
    leader = asyncio.create_task(answered(parts, asked()))
    await reranker.entered.wait()
    follower = asyncio.create_task(answered(parts, asked(overrun=Overrun.FAIL)))
    await asyncio.sleep(0)
    reranker.gate.set()
    assert (await leader).outcome.scored_k == 0
    answer = await follower
    assert (answer.cache, answer.outcome.scored_k) == (CacheStatus.MISS, 3)


async def test_follower_with_less_time_leaves_in_time() -> None:
    """Who joins a computation that takes longer than its own budget gets first-stage order when that ends."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    forced = Routing(Strategy.CROSS_ENCODER, rerank_k=3)
    leader = asyncio.create_task(answered(parts, asked(routing=forced)))
    await reranker.entered.wait()
    hurried = await answered(parts, asked(routing=forced, budget_ms=30.0))
    assert order_of(hurried) == [0, 1, 2]
    assert [each.reason for each in hurried.outcome.degradations] == [DegradationReason.BUDGET_EXHAUSTED]
    reranker.gate.set()
    assert (await leader).outcome.scored_k == 3
