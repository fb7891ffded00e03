"""Listeners, health, reflection and the way out: a gRPC server around the service."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

# Imported for reflection: it serves the descriptors of what is registered in the default pool.
from millirank.v1 import rerank_service_pb2

from sidecar.health_server import HealthServer
from sidecar.linger import linger
from sidecar.listeners import ListenError, bind_tcp, bind_unix
from sidecar.metrics import Metrics
from sidecar.pipeline import Pipeline
from sidecar.security import RequireToken, warn_of_plaintext
from sidecar.service import SERVICE_NAME, RerankService
from sidecar.settings import Limits, Listen
from sidecar.tls import grpc_credentials

_log = logging.getLogger("millirank.server")

# Room for gRPC's own framing around a message that is just within the limit.
_FRAMING_BYTES = 1024


class Server:
    """The gRPC server of one sidecar."""

    def __init__(
        self, service: RerankService, pipeline: Pipeline, listen: Listen, limits: Limits, metrics: Metrics
    ) -> None:
        """Raises ListenError or SecurityError."""
        if not listen.tcp and not listen.unix:
            raise ListenError("listen.tcp and listen.unix are both empty; set at least one of them")
        self._pipeline = pipeline
        self._listen = listen
        self._credentials = grpc_credentials(listen.tls)
        self._server = grpc.aio.server(
            interceptors=[RequireToken(Path(listen.token_file), metrics)] if listen.token_file else None,
            options=(
                ("grpc.max_receive_message_length", limits.wire_bytes + _FRAMING_BYTES),
                ("grpc.max_send_message_length", limits.wire_bytes + _FRAMING_BYTES),
                # Otherwise a second sidecar on the same port silently takes half of the traffic.
                ("grpc.so_reuseport", 0),
                # A client that pings more often than this while nothing is sent is sent away; ours ping every 30 s, and
                # only while calls run.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 2),
                # A peer that vanished without a word (half-open connection) is noticed and costs nothing for longer.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.ping_timeout_ms", 10_000),
            ),
            maximum_concurrent_rpcs=limits.concurrent_requests,
        )
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._health_server = HealthServer(self._health, listen.health) if listen.health else None
        names = (
            rerank_service_pb2.DESCRIPTOR.services_by_name["RerankService"].full_name,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> tuple[str, ...]:
        """Open the listeners and report SERVING: NONE can answer from the first moment on.

        Returns the addresses. Raises ListenError.
        """
        addresses = []
        if self._listen.tcp:
            addresses.append(self._bind_tcp(self._listen.tcp))
        if self._listen.unix:
            addresses.append(bind_unix(self._server, "listen.unix", Path(self._listen.unix)))
        await self._server.start()
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        if self._health_server is not None:
            await self._health_server.start()
        _log.info("serving", extra={"addresses": addresses})
        return tuple(addresses)

    async def stop(self, linger_s: float, drain_s: float) -> None:
        """Drain: say NOT_SERVING, answer new calls in first-stage order for a moment, finish the accepted ones.

        An event loop that is held up lingers longer, by at most half of ``drain_s``, and drains for that much less.
        """
        self._pipeline.draining = True
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        _log.info("draining", extra={"linger_s": linger_s, "drain_s": drain_s})
        lingered_s = await linger(linger_s, linger_s + drain_s / 2)
        await self._server.stop(max(drain_s / 2, linger_s + drain_s - lingered_s))
        if self._health_server is not None:
            await self._health_server.stop()
        _log.info("stopped")

    async def _report(self, status: int) -> None:
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)

    def _bind_tcp(self, address: str) -> str:
        bound = bind_tcp(self._server, "listen.tcp", address, self._credentials)
        warn_of_plaintext(_log, "listen.tcp", bound, tls=self._credentials is not None)
        return bound
