"""A pipeline whose answers a scripted reference judges behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opentelemetry.trace import NoOpTracerProvider

from router.arms import Strategy
from sidecar.messages import Answer
from sidecar.rerankers.base import Scored, ScoreRequest
from sidecar.shadow import Dropped, Evaluation, Shadow
from tests.helpers import Rig, ScriptedReranker, arm_data, profile, request, rig

TEXTS = ("grey", "red", "red green", "white")
SOON_S = 30.0  # only a test that hangs waits so long


class Teacher(ScriptedReranker):
    """The reference: scores texts as told."""

    def __init__(self, opinions: Mapping[str, float], **fields: Any) -> None:
        super().__init__("teacher", Strategy.LLM, **fields)
        self.opinions = opinions

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        scored = await super().score(request, timeout_s)
        return replace(scored, scores=tuple(self.opinions[document.text] for document in request.documents))


class Watched:
    """A pipeline with a shadow, and what that told."""

    def __init__(self, *others: ScriptedReranker, teacher: Teacher, share: float = 1.0, k: int = 50) -> None:
        self.evaluations: list[Evaluation] = []
        self.dropped: list[Dropped] = []
        rerankers = {each.identity.name: each for each in (*others, teacher)}
        self.shadow = Shadow(
            rerankers=rerankers,
            reference="teacher",
            share=share,
            k=k,
            tracer=NoOpTracerProvider().get_tracer("tests"),
            on_evaluated=self.evaluations.append,
            on_dropped=self.dropped.append,
        )
        self.parts: Rig = rig(
            *others,
            teacher,
            profiles=[profile(scripted=arm_data(weights={"bm25": 0.0}), signals=arm_data("signals", gain=-0.1))],
            shadow=self.shadow,
        )

    async def answer(self, *texts: str, **fields: Any) -> Answer:
        sent = request("red green", *(texts or TEXTS), **{"budget_ms": 10_000.0, **fields})
        return await self.parts.pipeline.rerank(sent, None, self.parts.clock())

    async def outcome(self) -> Evaluation | Dropped:
        """What became of the only request that was drawn."""
        async with asyncio.timeout(SOON_S):
            while not self.evaluations and not self.dropped:
                await asyncio.sleep(0.005)
        assert len(self.evaluations) + len(self.dropped) == 1
        return (*self.evaluations, *self.dropped)[0]


def agreeing() -> Teacher:
    return Teacher({"grey": -2.0, "red": 0.5, "red green": 8.0, "white": -1.0})
