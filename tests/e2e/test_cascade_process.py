"""Cascades and a remote pool in a sidecar process: the embedded models, a stand-in for the pool, the real client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from millirank import AsyncClient, Outcome, Ranking, Reason

from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.helpers import arm_data, overlap, profile_data
from tests.rerankers.fake_pool import FakePool, Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = "How do I sort a list of dictionaries by a key?"
TEXTS = [
    f"{number}: {topic} {'and some more words about it ' * (1 + number % 7)}"
    for number in range(10)
    for topic in (
        "the tempfile module creates temporary files",
        "sorted() takes a key function that orders dictionaries",
        "an HTTP server waits for connections",
        "a list of dictionaries has no order by itself",
        "threads share the memory of their process",
    )
]
SECOND_K = 16
GENEROUS_MS = 50_000.0  # so that a loaded machine never makes the answer less than complete


@dataclass(frozen=True, slots=True)
class Running:
    """A sidecar with ``models`` (minilm-l6, then tiny-cross-encoder) and ``pooled`` (minilm-l6, then the pool)."""

    client: AsyncClient
    pool: FakePool

    async def rerank(self, reranker: str, budget_ms: float = GENEROUS_MS, count: int = len(TEXTS)) -> Ranking[str]:
        return await self.client.rerank(
            QUERY, TEXTS[:count], budget_ms=budget_ms, reranker=reranker, rerank_k=count, use_cache=False
        )


def variables(folder: Path, pool_url: str) -> dict[str, str]:
    """Settings as the environment has them. Nothing is kept, so that every test sees its own calls; rerankers that the
    profile does not know are ordered by their own scores alone."""
    path = folder / "profile.json"
    minilm = arm_data("late_interaction", ms_per_token=0.15, weights={"bm25": 0.0})
    path.write_text(json.dumps(profile_data(**{"minilm-l6": minilm})))
    cascade = {"STRATEGY": "cascade", "FIRST": "minilm-l6", "SECOND_K": str(SECOND_K)}
    rerankers = {
        "POOL": {"STRATEGY": "cross_encoder", "ENGINE": "http", "URL": pool_url},
        "MODELS": cascade | {"SECOND": "tiny-cross-encoder"},
        "POOLED": cascade | {"SECOND": "pool"},
    }
    return {
        f"MILLIRANK_RERANKERS__{name}__{field}": value
        for name, settings in rerankers.items()
        for field, value in settings.items()
    } | {
        "MILLIRANK_PROFILES": json.dumps([str(path)]),
        "MILLIRANK_CACHE__PAIRS_BYTES": "0",
        "NO_PROXY": "127.0.0.1",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One process for all tests of this file."""
    async with FakePool() as pool:
        with SidecarProcess(variables(tmp_path_factory.mktemp("cascade"), pool.url)) as sidecar:
            (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
            async with AsyncClient(address) as client:
                running = Running(client, pool)
                async with asyncio.timeout(PATIENCE_S):
                    for reranker in ("models", "pooled"):
                        # Models load behind the first answers, and nothing tells from outside when.
                        while (await running.rerank(reranker, count=2)).outcome is not Outcome.RANKED:
                            await asyncio.sleep(0.1)
                yield running


@pytest_asyncio.fixture(loop_scope="module")
async def running(process: Running) -> Running:
    process.pool.fault = Fault.NONE
    process.pool.received.clear()
    return process


def indexes(ranking: Ranking[str]) -> list[int]:
    return [ranked.index for ranked in ranking]


async def test_both_stages_make_the_order(running: Running) -> None:
    """50 documents and time enough: complete; the first 16 are the late interaction's best, in the order that the
    cross-encoder alone gives them, and the rest stand in the late interaction's."""
    ranking = await running.rerank("models")
    assert ranking.outcome is Outcome.RANKED, ranking.degradations
    assert ranking.decision is not None
    assert (ranking.decision.strategy, ranking.decision.reranker) == ("cascade", "models")
    first = indexes(await running.rerank("minilm-l6"))
    second = indexes(await running.rerank("tiny-cross-encoder"))
    best = set(first[:SECOND_K])
    assert indexes(ranking)[:SECOND_K] == [index for index in second if index in best]
    assert indexes(ranking)[SECOND_K:] == first[SECOND_K:]
    scores = [ranked.score for ranked in ranking]
    assert scores == sorted(scores, reverse=True)


async def test_any_budget_is_answered(running: Running) -> None:
    """From plenty to nothing: an ordering every time, and where it is not complete, a reason; where the first stage
    was completed, its order."""
    first = indexes(await running.rerank("minilm-l6"))
    for budget_ms in (2_000.0, 400.0, 200.0, 100.0, 60.0, 40.0, 25.0, 15.0, 8.0, 3.0):
        ranking = await running.rerank("models", budget_ms)
        assert sorted(indexes(ranking)) == list(range(len(TEXTS)))
        if ranking.outcome is not Outcome.RANKED:
            assert ranking.reasons
        if any("first stage only" in each.detail and "part of" not in each.detail for each in ranking.degradations):
            assert (ranking.outcome, indexes(ranking)) == (Outcome.PARTIAL, first)


async def test_pool_answers_in_the_process(running: Running) -> None:
    """The remote arm alone: its scores are the order, in one call."""
    ranking = await running.rerank("pool")
    assert ranking.outcome is Outcome.RANKED, ranking.degradations
    assert [ranked.raw_score for ranked in ranking] == sorted((overlap(QUERY, text) for text in TEXTS), reverse=True)
    (received,) = running.pool.received
    assert len(received.body["documents"]) == len(TEXTS)


async def test_pool_sees_the_best_only(running: Running) -> None:
    """As the second stage it is sent 16 of 50 documents."""
    ranking = await running.rerank("pooled")
    assert ranking.outcome is Outcome.RANKED, ranking.degradations
    (received,) = running.pool.received
    assert len(received.body["documents"]) == SECOND_K


async def test_second_stage_that_hangs(running: Running) -> None:
    """Cut short by the budget while the pool hangs: the first stage's order, PARTIAL, and why; and the pool's
    connection is closed."""
    first = indexes(await running.rerank("minilm-l6"))
    running.pool.fault = Fault.HANG
    running.pool.disconnected.clear()
    ranking = await running.rerank("pooled", budget_ms=3_000.0)
    assert (ranking.outcome, indexes(ranking)) == (Outcome.PARTIAL, first), ranking.degradations
    (degradation,) = ranking.degradations
    assert degradation.reason is Reason.BUDGET_EXHAUSTED
    assert degradation.detail.startswith("pooled: first stage only; pool did not answer for 16 candidates")
    await asyncio.wait_for(running.pool.disconnected.wait(), PATIENCE_S)


async def test_second_stage_that_fails(running: Running) -> None:
    """An error of the pool: the first stage's order, PARTIAL, BACKEND_ERROR, none of the pool's words."""
    first = indexes(await running.rerank("minilm-l6"))
    running.pool.fault = Fault.STATUS
    ranking = await running.rerank("pooled")
    assert (ranking.outcome, indexes(ranking)) == (Outcome.PARTIAL, first)
    (degradation,) = ranking.degradations
    assert (degradation.reason, degradation.detail) == (Reason.BACKEND_ERROR, "pooled: first stage only; HTTP 503")
