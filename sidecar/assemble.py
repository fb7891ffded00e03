"""The only place where the parts are put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.sdk.trace import SpanProcessor

from sidecar import assemble_rerankers
from sidecar import profiles as profile_files
from sidecar import telemetry as telemetry_setup
from sidecar.cache import ResultCache
from sidecar.estimates import Estimates
from sidecar.pipeline import Pipeline
from sidecar.planner import Planner
from sidecar.rerankers.base import Reranker
from sidecar.server import Server
from sidecar.service import RerankService
from sidecar.settings import Settings
from sidecar.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Everything that one process consists of."""

    settings: Settings
    pipeline: Pipeline
    rerankers: Mapping[str, Reranker]
    server: Server
    telemetry: Telemetry

    async def start(self) -> tuple[str, ...]:
        """Serve at once, load models behind it. Returns the addresses. Raises ListenError."""
        addresses = await self.server.start()
        for reranker in self.rerankers.values():
            await reranker.start()
        return addresses

    async def stop(self) -> None:
        """Drain and leave nothing behind."""
        await self.server.stop(self.settings.linger_s, self.settings.drain_s)
        await self.pipeline.close()
        await asyncio.gather(*(reranker.close() for reranker in self.rerankers.values()))
        await asyncio.to_thread(self.telemetry.close)


def build(settings: Settings, environment: Mapping[str, str], span_processor: SpanProcessor | None = None) -> Sidecar:
    """A sidecar that has not started yet. Call it on the event loop that will run it.

    Raises SettingsError, ProfileError, TelemetryError, ListenError or SecurityError, each with the setting and the fix.
    """
    telemetry = telemetry_setup.set_up(environment, span_processor)
    profiles = profile_files.load(settings.profiles)
    rerankers = assemble_rerankers.build(settings, environment, profiles.default, telemetry.tracer)
    estimates = Estimates(rerankers, profiles.default, time.monotonic)
    planner = Planner(
        rerankers=rerankers,
        assumed_gains={
            name: configured.expected_gain
            for name, configured in settings.rerankers.items()
            if configured.expected_gain is not None
        },
        profiles=profiles,
        estimates=estimates,
        budget=settings.budget,
        tracer=telemetry.tracer,
    )
    pipeline = Pipeline(
        planner=planner,
        rerankers=rerankers,
        estimates=estimates,
        cache=ResultCache(settings.cache.results_bytes, settings.cache.ttl_s),
        tracer=telemetry.tracer,
        mode=settings.mode,
    )
    service = RerankService(pipeline, settings.limits, telemetry.tracer, telemetry.metrics)
    server = Server(service, pipeline, settings.listen, settings.limits, telemetry.metrics)
    return Sidecar(settings, pipeline, rerankers, server, telemetry)
