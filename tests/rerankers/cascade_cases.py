"""What the tests of the cascade share: two stages without a model, and what they are known to take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from opentelemetry.trace import NoOpTracer, Tracer

from router.arms import Strategy, Work
from router.profile import Profile
from sidecar.rerankers.base import (
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.cascade import CascadeReranker
from tests.helpers import Clock, ScriptedReranker, arm_data, profile
from tests.rerankers.local_models import document

QUERY = "a b c d e f g h"
# Words in common with the query: 8, 7, ... 1, and then none.
TEXTS = (*(QUERY[: 2 * count - 1] for count in range(8, 0, -1)), "x", "y")
GENEROUS_S = 60.0


class Backwards(ScriptedReranker):
    """Scores as its parent does, but the other way round: what it finds best the parent finds worst."""

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        scored = await super().score(request, timeout_s)
        return replace(scored, scores=tuple(-score for score in scored.scores))


class Priced(ScriptedReranker):
    """Costs 2 micro-USD a token, and differs in tokens from document to document."""

    def work(self, request: ScoreRequest) -> Work:
        return Work(tuple(10 * len(each.text) for each in request.documents), fixed_tokens=5, micro_usd_per_token=2.0)


def wide(clock: Clock | None = None, **fields: Any) -> ScriptedReranker:
    """A first stage: 1 ms a document where there is a clock."""
    return ScriptedReranker("wide", Strategy.LATE_INTERACTION, clock=clock, document_ms=1.0, **fields)


def deep(clock: Clock | None = None, document_ms: float = 5.0, **fields: Any) -> Backwards:
    """A second stage that disagrees with the first one: 5 ms a document where there is a clock."""
    return Backwards("deep", clock=clock, document_ms=document_ms, **fields)


def priors(wide_ms: float = 1.0, deep_ms: float = 5.0) -> Profile:
    """A profile that knows what a document of 10 tokens takes."""
    return profile(
        wide=arm_data("late_interaction", ms_per_token=wide_ms / 10),
        deep=arm_data("cross_encoder", ms_per_token=deep_ms / 10),
        both=arm_data("cascade", ms_per_token=0.001),
    )


def cascade(
    first: ScriptedReranker,
    second: ScriptedReranker,
    second_k: int = 4,
    clock: Clock | None = None,
    known: Profile | None = None,
    tracer: Tracer | None = None,
) -> CascadeReranker:
    return CascadeReranker(
        "both",
        first,
        second,
        second_k,
        profile=known or priors(),
        tracer=tracer or NoOpTracer(),
        clock=clock or Clock(),
    )


def asked(*texts: str) -> ScoreRequest:
    return ScoreRequest(QUERY, "", [document(text) for text in texts or TEXTS])


def order_of(scores: tuple[float, ...]) -> list[int]:
    return sorted(range(len(scores)), key=lambda position: (-scores[position], position))
