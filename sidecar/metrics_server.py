"""GET /metrics for Prometheus, on a listener of its own: in a pod it faces the scraper, while the service does not."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sidecar.http_listeners import open_site
from sidecar.prometheus import scrape

_log = logging.getLogger("millirank.metrics")


class MetricsServer:
    """The listener ``listen.metrics``. It asks nobody who they are: there are numbers and configured names only."""

    def __init__(self, reader: InMemoryMetricReader, address: str) -> None:
        self._reader = reader
        self._address = address
        # One at a time: a reading resets what the next one calls the latest.
        self._one_by_one = asyncio.Lock()
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self) -> str:
        """Opens the listener and returns its address. Raises ListenError."""
        address = await open_site(self._runner, "listen.metrics", self._address)
        _log.info("metrics", extra={"address": address})
        return address

    async def stop(self) -> None:
        """Closes it."""
        await self._runner.cleanup()

    async def _metrics(self, asked: web.Request) -> web.Response:
        async with self._one_by_one:
            # In a thread: writing some thousand lines would keep the event loop from requests for milliseconds.
            body, content_type = await asyncio.to_thread(scrape, self._reader, asked.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
