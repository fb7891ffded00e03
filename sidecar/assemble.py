"""The only place where the parts are put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.trace import SpanProcessor

from sidecar import profiles as profile_files
from sidecar import telemetry as telemetry_setup
from sidecar.cache import ResultCache
from sidecar.embedded import model_dir
from sidecar.estimates import Estimates
from sidecar.pipeline import Pipeline
from sidecar.planner import Planner
from sidecar.rerankers.base import Reranker
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.llm import LlmReranker
from sidecar.server import Server
from sidecar.service import RerankService
from sidecar.settings import (
    CrossEncoderSettings,
    LateInteractionSettings,
    LlmSettings,
    LocalModel,
    RerankerSettings,
    Settings,
)
from sidecar.telemetry import Telemetry

EMBEDDED_PREFIX = "embedded:"


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

    Raises ProfileError, TelemetryError or ListenError, each with the setting and the fix.
    """
    telemetry = telemetry_setup.set_up(environment, span_processor)
    profiles = profile_files.load(settings.profiles)
    rerankers = {
        name: _reranker(name, configured, environment)
        for name, configured in settings.rerankers.items()
        if configured.enabled
    }
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
    server = Server(service, pipeline, settings.listen, settings.limits)
    return Sidecar(settings, pipeline, rerankers, server, telemetry)


def _reranker(name: str, configured: RerankerSettings, environment: Mapping[str, str]) -> Reranker:
    match configured:
        case LateInteractionSettings():
            return LateInteraction(
                name,
                _model_folder(configured),
                threads=configured.threads,
                max_tokens=configured.max_tokens,
                nice=configured.nice,
                hard_limit_s=configured.chunk_hard_limit_s,
                vector_bytes=configured.vector_bytes,
                warm_idle=configured.warm_idle,
            )
        case CrossEncoderSettings():
            return CrossEncoder(
                name,
                _model_folder(configured),
                threads=configured.threads,
                max_tokens=configured.max_tokens,
                nice=configured.nice,
                hard_limit_s=configured.chunk_hard_limit_s,
            )
        case LlmSettings():
            return LlmReranker(
                name,
                configured.base_url,
                configured.model,
                environment.get(configured.api_key_env, ""),
                prompt_price_micro_usd_per_1k=configured.prompt_micro_usd_per_1k,
                completion_price_micro_usd_per_1k=configured.completion_micro_usd_per_1k,
                max_document_tokens=configured.max_document_tokens,
                timeout_s=configured.timeout_s,
            )


def _model_folder(configured: LocalModel) -> Path:
    if configured.model.startswith(EMBEDDED_PREFIX):
        return model_dir(configured.model.removeprefix(EMBEDDED_PREFIX))
    return Path(configured.model).expanduser()
