"""A pipeline and what it consists of, without listeners: what a sidecar serves, and the ingress of a pool too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from opentelemetry.sdk.trace import SpanProcessor

from sidecar import assemble_records, assemble_rerankers
from sidecar import telemetry as telemetry_setup
from sidecar.cache import ResultCache
from sidecar.decision_log import DecisionLog
from sidecar.decision_page.recent import RecentDecisions
from sidecar.estimates import Estimates
from sidecar.loop_lag import LoopLag
from sidecar.pipeline import Pipeline
from sidecar.planner import Planner
from sidecar.profile_watch import ProfileWatch
from sidecar.request_frame import RequestFrame
from sidecar.rerankers.base import Reranker
from sidecar.service import RerankService
from sidecar.settings import Settings
from sidecar.shadow_log import ShadowLog
from sidecar.telemetry import Telemetry
from sidecar.utilisation import Utilisation

_NONE: Mapping[str, Reranker] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Core:
    """The service and everything behind it."""

    frame: RequestFrame
    service: RerankService
    pipeline: Pipeline
    rerankers: Mapping[str, Reranker]
    profile_watch: ProfileWatch
    logs: Sequence[DecisionLog | ShadowLog]
    loop_lag: LoopLag
    utilisation: Utilisation
    telemetry: Telemetry
    recent: RecentDecisions | None
    """What ``listen.page`` shows; None where that is off."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Load models, and watch files and the event loop, in the background."""
        self._tasks.append(asyncio.create_task(self.profile_watch.run(), name="watch profiles"))
        for reranker in self.rerankers.values():
            await reranker.start()
        lag = self.loop_lag.watch(self.telemetry.metrics.loop_lag)
        self._tasks.append(asyncio.create_task(lag, name="watch loop lag"))
        self._tasks.append(asyncio.create_task(self.utilisation.watch(), name="watch utilisation"))

    async def stop(self) -> None:
        """Leave nothing behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pipeline.close()
        await asyncio.gather(*(reranker.close() for reranker in self.rerankers.values()))
        for log in self.logs:
            await asyncio.to_thread(log.close)
        await asyncio.to_thread(self.telemetry.close)


def build_core(
    settings: Settings,
    environment: Mapping[str, str],
    span_processor: SpanProcessor | None = None,
    elsewhere: Mapping[str, Reranker] = _NONE,
) -> Core:
    """A core that has not started yet. Call it on the event loop that will run it.

    ``elsewhere`` are rerankers, by name, that run in other processes in place of what is configured under that name.
    Raises SettingsError, ProfileError or TelemetryError, each with the setting and the fix.
    """
    telemetry = telemetry_setup.set_up(environment, span_processor, prometheus=bool(settings.listen.metrics))
    watch = ProfileWatch(settings.profiles, on_reload=telemetry.metrics.profiles_reloaded)
    profiles = watch.current
    rerankers = assemble_rerankers.build(settings, environment, profiles.default, telemetry.tracer, elsewhere)
    decision_log = assemble_records.decision_log(settings.decision_log, lambda: watch.current, telemetry.metrics)
    shadow, shadow_log = assemble_records.shadow(settings.shadow, rerankers, telemetry.tracer, telemetry.metrics)
    loop_lag = LoopLag()
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
        decision_log=decision_log,
        loop_lag=loop_lag,
    )
    watch.follow(planner.use)
    watch.follow(lambda changed: estimates.use(changed.default))
    pipeline = Pipeline(
        planner=planner,
        rerankers=rerankers,
        estimates=estimates,
        cache=ResultCache(settings.cache.results_bytes, settings.cache.ttl_s),
        tracer=telemetry.tracer,
        mode=settings.mode,
        shadow=shadow,
        answer_ms=settings.budget.reserve_ms,
    )
    utilisation = Utilisation([each.scheduler for each in rerankers.values() if each.scheduler is not None])
    telemetry.metrics.watch(rerankers, lambda: pipeline.mode, lambda: utilisation.current)
    recent = RecentDecisions() if settings.listen.page else None
    frame = RequestFrame(settings.limits, telemetry.tracer, telemetry.metrics, recent.add if recent else None)
    service = RerankService(pipeline, settings.limits, frame)
    logs = [log for log in (decision_log, shadow_log) if log is not None]
    return Core(frame, service, pipeline, rerankers, watch, logs, loop_lag, utilisation, telemetry, recent)
