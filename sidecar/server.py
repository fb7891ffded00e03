"""Listeners, health, reflection and the way out: a gRPC server around the service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

# Imported for reflection: it serves the descriptors of what is registered in the default pool.
from millirank.v1 import rerank_service_pb2

from sidecar.pipeline import Pipeline
from sidecar.security import RequireToken, credentials, is_loopback
from sidecar.service import SERVICE_NAME, RerankService
from sidecar.settings import Limits, Listen
from sidecar.telemetry import Metrics

_log = logging.getLogger("millirank.server")

# struct sockaddr_un holds 108 bytes on Linux, the last one a zero.
_MAX_SOCKET_PATH = 107
# Room for gRPC's own framing around a message that is just within the limit.
_FRAMING_BYTES = 1024


class ListenError(Exception):
    """A listener can't be opened. The message names the setting and the fix."""


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
        self._credentials = credentials(listen.tls)
        self._server = grpc.aio.server(
            interceptors=[RequireToken(Path(listen.token_file), metrics)] if listen.token_file else None,
            options=(
                ("grpc.max_receive_message_length", limits.wire_bytes + _FRAMING_BYTES),
                ("grpc.max_send_message_length", limits.wire_bytes + _FRAMING_BYTES),
                # Otherwise a second sidecar on the same port silently takes half of the traffic.
                ("grpc.so_reuseport", 0),
                # A client that pings without a call more often than this is sent away; ours ping every 30 s, and only
                # while calls run.
                ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
                ("grpc.http2.max_ping_strikes", 2),
                # A peer that vanished without a word (half-open connection) is noticed and costs nothing for longer.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 10_000),
            ),
            maximum_concurrent_rpcs=limits.concurrent_requests,
        )
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
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
            addresses.append(self._bind_unix(Path(self._listen.unix)))
        await self._server.start()
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", extra={"addresses": addresses})
        return tuple(addresses)

    async def stop(self, linger_s: float, drain_s: float) -> None:
        """Drain: say NOT_SERVING, answer new calls in first-stage order for a moment, finish the accepted ones."""
        self._pipeline.draining = True
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        _log.info("draining", extra={"linger_s": linger_s, "drain_s": drain_s})
        await asyncio.sleep(linger_s)
        await self._server.stop(drain_s)
        _log.info("stopped")

    async def _report(self, status: int) -> None:
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)

    def _bind_tcp(self, address: str) -> str:
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ListenError(f"listen.tcp is {address!r}; write host:port, such as 127.0.0.1:50051 or [::1]:50051")
        if self._credentials is None and not is_loopback(host):
            _log.warning(
                "plaintext listener off loopback: anybody who reaches it can read what is searched; set listen.tls, or "
                "keep it behind a mesh that encrypts",
                extra={"address": address},
            )
        try:
            bound = (
                self._server.add_insecure_port(address)
                if self._credentials is None
                else self._server.add_secure_port(address, self._credentials)
            )
        except RuntimeError:
            raise ListenError(
                f"listen.tcp: {address} can't be opened; is another process using the port, or is the host not of "
                "this machine? Choose another one, or port 0 for any"
            ) from None
        return f"{host}:{bound}"

    def _bind_unix(self, path: Path) -> str:
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            raise ListenError(
                f"listen.unix: the path has {len(os.fsencode(path))} bytes; "
                f"at most {_MAX_SOCKET_PATH}: choose a shorter one"
            )
        _make_way(path)
        with _private_umask():
            try:
                self._server.add_insecure_port(f"unix:{path}")
            except RuntimeError:
                raise ListenError(f"listen.unix: {path} can't be opened; may this user write there?") from None
        return f"unix:{path}"


def _make_way(path: Path) -> None:
    """Create the private directory, and remove what a sidecar that was killed left behind; never one in use."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o770)  # mkdir's own mode is subject to the umask
        if not path.exists():
            return
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ListenError(f"listen.unix: {path} exists and is not a socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ListenError(f"listen.unix: {path}: {error.strerror or error}; choose a path this user may use") from None
    else:
        raise ListenError(f"listen.unix: {path} is in use by another process; stop it or choose another path")


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    """Files created within are for the owner and the group only. Start-up is single-threaded, so this is safe."""
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)
