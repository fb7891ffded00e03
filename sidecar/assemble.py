"""The only place where the parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

from sidecar.admin_server import AdminServer
from sidecar.admin_service import AdminService
from sidecar.assemble_core import Core, build_core
from sidecar.pipeline import Pipeline
from sidecar.rerankers.base import Reranker
from sidecar.server import Server
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.decision_page.server import DecisionPage
    from sidecar.http_server import HttpServer
    from sidecar.metrics_server import MetricsServer


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Everything that one process consists of."""

    settings: Settings
    core: Core
    server: Server
    admin: AdminServer | None
    http: HttpServer | None
    metrics: MetricsServer | None
    page: DecisionPage | None

    @property
    def pipeline(self) -> Pipeline:
        """What decides and carries out."""
        return self.core.pipeline

    @property
    def rerankers(self) -> Mapping[str, Reranker]:
        """By name, in the configured order."""
        return self.core.rerankers

    async def start(self) -> tuple[str, ...]:
        """Serve at once, load models behind it. Returns the addresses, without the operator's. Raises ListenError."""
        if self.admin is not None:
            await self.admin.start()
        if self.http is not None:
            await self.http.start()
        if self.metrics is not None:
            await self.metrics.start()
        if self.page is not None:
            await self.page.start()
        addresses = await self.server.start()
        await self.core.start()
        return addresses

    async def stop(self) -> None:
        """Drain and leave nothing behind."""
        stopping = [self.server.stop(self.settings.linger_s, self.settings.drain_s)]
        if self.http is not None:
            stopping.append(self.http.stop(self.settings.linger_s))
        await asyncio.gather(*stopping)  # at the same time: both drain within one grace period
        if self.admin is not None:
            await self.admin.stop()
        if self.metrics is not None:
            await self.metrics.stop()
        if self.page is not None:
            await self.page.stop()
        await self.core.stop()


def build(settings: Settings, environment: Mapping[str, str], span_processor: SpanProcessor | None = None) -> Sidecar:
    """A sidecar that has not started yet. Call it on the event loop that will run it.

    Raises SettingsError, ProfileError, TelemetryError, ListenError or SecurityError, each with the setting and the fix.
    """
    core = build_core(settings, environment, span_processor)
    telemetry, pipeline, rerankers = core.telemetry, core.pipeline, core.rerankers
    server = Server(core.service, pipeline, settings.listen, settings.limits, telemetry.metrics)
    admin = None
    if settings.listen.admin:
        admin_service = AdminService(settings.rerankers, rerankers, pipeline, core.profile_watch)
        admin = AdminServer(admin_service, settings.listen.admin)
    http = None
    if settings.listen.http:
        from sidecar.http_server import HttpServer

        http = HttpServer(pipeline, tuple(rerankers), settings.listen, settings.limits, core.frame, settings.drain_s)
    metrics = None
    if telemetry.scraped is not None:
        from sidecar.metrics_server import MetricsServer

        metrics = MetricsServer(telemetry.scraped, settings.listen.metrics)
    page = None
    if core.recent is not None:
        from sidecar.decision_page.server import DecisionPage
        from sidecar.decision_page.state import Source

        source = Source(
            core.recent,
            pipeline,
            rerankers,
            lambda: core.profile_watch.current,
            lambda: core.utilisation.current,
        )
        page = DecisionPage(source, settings.listen.page)
    return Sidecar(settings, core, server, admin, http, metrics, page)
