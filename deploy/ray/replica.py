"""One model in one Ray actor: the sidecar's own reranker, its scheduler and its anytime scoring."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from router.arms import State
from sidecar import telemetry as telemetry_setup
from sidecar.assemble_rerankers import scheduling_of, simple
from sidecar.estimates import Estimates
from sidecar.profile_watch import ProfileWatch
from sidecar.reranker_settings import LocalModelSettings
from sidecar.rerankers.base import ScoreRequest
from sidecar.rerankers.pool import PoolAnswer
from sidecar.scored_prefix import as_scored
from sidecar.scoring import ScoringJob, score_prefix
from sidecar.settings import Settings

_LOOK_S = 0.02


class ModelNotLoadedError(Exception):
    """The model can't be used. The message names the setting or the file, and the fix."""


class ModelReplica:
    """What Ray Serve runs as often as it is asked to. The model itself runs in a child, as in a sidecar: a tokenizer
    that holds the GIL for long keeps neither Ray's health checks nor other requests waiting.

    Requests that wait here share the child chunk by chunk, in the order of their deadlines, and small ones its calls.
    """

    async def __init__(self, name: str, configured: LocalModelSettings, settings: Settings) -> None:  # type: ignore[misc]
        """Returns once the model can score, since Ray sends requests from then on. Raises ModelNotLoadedError."""
        self._name = name
        self._telemetry = telemetry_setup.set_up(os.environ, None)
        self._reranker = simple(name, configured, scheduling_of(settings), os.environ, self._telemetry.tracer)
        profile = ProfileWatch(settings.profiles, on_reload=lambda *_: None).current.default
        self._estimates = Estimates({name: self._reranker}, profile, time.monotonic)
        await self._reranker.start()
        while (availability := self._reranker.availability()).state is State.WARMING:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(_LOOK_S)
        if availability.state is not State.READY:
            raise ModelNotLoadedError(f"rerankers.{name}: {availability.detail}")
        self._estimates.seed()

    async def score(self, request: ScoreRequest, left_ms: float, carrier: Mapping[str, str]) -> PoolAnswer:
        """Scores of as many candidates as fit into ``left_ms``. ``carrier`` is the caller's trace context."""
        arrived = time.monotonic()
        with self._telemetry.tracer.start_as_current_span(
            "replica",
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"millirank.reranker": self._name, "millirank.documents": len(request.documents)},
            record_exception=False,
            set_status_on_exception=False,
        ):
            job = ScoringJob(
                request.query,
                request.instruction,
                request.documents,
                self._reranker.work(request),
                arrived + left_ms / 1e3,
                request.use_cache,
                request.tenant,
            )
            chunk = self._estimates.chunk[self._name]
            prefix = await score_prefix(job, self._reranker, chunk, self._telemetry.tracer)
        self._reranker.remember(request.documents)
        scored = as_scored(prefix, len(request.documents))
        revision = self._reranker.identity.revision
        return PoolAnswer(replace(scored, revision=revision), (time.monotonic() - arrived) * 1e3)

    async def revision(self) -> str:
        """Which model this replica runs."""
        return self._reranker.identity.revision

    async def check_health(self) -> None:
        """Asked by Ray. A child that died is restarted by its parent; one that can't be is a replica to replace.

        Raises ModelNotLoadedError.
        """
        availability = self._reranker.availability()
        if availability.state is State.OFF:
            raise ModelNotLoadedError(f"rerankers.{self._name}: {availability.detail}")

    async def __del__(self) -> None:
        """Called by Ray when the replica is to end, after its last request."""
        await self._reranker.close()
        await asyncio.to_thread(self._telemetry.close)
