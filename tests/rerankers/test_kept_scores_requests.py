"""Kept pair scores as requests see them: pairs saved, another model noticed, and what they do to predictions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.arms import Strategy
from router.policy import Routing
from sidecar.messages import Answer, CacheStatus, Request
from sidecar.rerankers.base import Scored, ScoreRequest
from tests.helpers import Clock, Rig, ScriptedReranker, request, rig
from tests.rerankers.kept_cases import kept
from tests.rerankers.local_models import QUERY

HOUR_MS = 3_600_000.0
FORCED = Routing(Strategy.CROSS_ENCODER)


def asked(*words: str, **fields: Any) -> Request:
    return request(QUERY, *words, **{"budget_ms": HOUR_MS, "routing": FORCED, **fields})


async def answered(parts: Rig, sent: Request) -> Answer:
    return await parts.pipeline.rerank(sent, None, parts.clock())


async def test_80_percent_overlap_saves_80_percent_of_the_pairs() -> None:
    """Another page of the same search: 100 candidates, 80 of them known, 20 pairs computed."""
    inner = ScriptedReranker()
    parts = rig(kept(inner))  # type: ignore[arg-type]
    await answered(parts, asked(*(f"csv {number}" for number in range(100))))
    before = sum(len(call.documents) for call in inner.calls)
    second = await answered(parts, asked(*(f"csv {number}" for number in range(20, 120))))
    computed = sum(len(call.documents) for call in inner.calls) - before
    usage = second.outcome.usage
    assert second.cache is CacheStatus.MISS
    assert (usage.pairs, usage.cached_pairs, computed) == (100, 80, 20)


async def test_another_model_revision_does_not_hit() -> None:
    """Invariant 9, through the pipeline: a model that comes back from a restart with other weights computes anew."""
    inner = ScriptedReranker()
    parts = rig(kept(inner))  # type: ignore[arg-type]
    await answered(parts, asked("a", "b"))
    inner.identity = replace(inner.identity, revision="revision-2")
    other = await answered(parts, asked("a", "b"))
    assert (other.cache, other.outcome.usage.cached_pairs) == (CacheStatus.MISS, 0)


class Remote(ScriptedReranker):
    """Takes ``CALL_MS`` for a call, whatever is in it."""

    CALL_MS = 50.0

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        self._clock.pass_ms(self.CALL_MS)  # type: ignore[union-attr]
        return await super().score(request, timeout_s)


async def settled() -> tuple[Rig, Clock]:
    """A sidecar that has learnt how long `Remote` takes; it keeps the scores of `WORDS`, and other signals than before
    make requests that the kept answers do not match."""
    clock = Clock()
    parts = rig(kept(Remote(clock)), clock=clock)  # type: ignore[arg-type]
    for number in range(60):
        await answered(parts, asked(*(f"{number} {word}" for word in WORDS[: 1 + number % 10])))
    await answered(parts, asked(*WORDS))
    return parts, clock


WORDS = [f"csv {number}" for number in range(10)]


async def test_kept_scores_do_not_teach_the_latency_estimates() -> None:
    """100 requests that compute nothing, and do so at once, leave what is predicted for one that computes as it was."""
    parts, clock = await settled()

    def predicted() -> list[float]:
        estimates = parts.pipeline._estimates
        return [each["scripted"].predict(100, clock()).p95_ms for each in (estimates.stage, estimates.chunk)]

    before = predicted()
    for number in range(100):
        signals = [{"bm25": float(number + place)} for place in range(len(WORDS))]
        answer = await answered(parts, asked(*WORDS, signals=signals))
        assert (answer.cache, answer.outcome.usage.cached_pairs) == (CacheStatus.MISS, 10)
    assert min(before) > Remote.CALL_MS / 2
    assert predicted() == pytest.approx(before)


async def test_kept_scores_fit_any_budget() -> None:
    """Where nothing is left to compute no time has to be left for the model; one new candidate needs it."""
    parts, _ = await settled()
    in_a_hurry: dict[str, Any] = {"budget_ms": 10.0, "routing": Routing()}
    known = asked(*WORDS, signals=[{"bm25": 1.0}] * 10, **in_a_hurry)
    new = asked(*WORDS[1:], "csv new", signals=[{"bm25": 1.0}] * 10, **in_a_hurry)
    answer = await answered(parts, known)
    assert (answer.outcome.scored_k, answer.outcome.degradations) == (10, ())
    assert answer.explanation.decision.predicted_p95_ms == 0.0
    assert (await answered(parts, new)).outcome.scored_k < 10
