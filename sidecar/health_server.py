"""A listener that answers gRPC health and nothing else.

For whoever probes from outside, as a kubelet does from its node: the service itself then stays on loopback, on a
private socket, or behind client certificates, which a kubelet has none of.
"""

from __future__ import annotations

import logging

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from sidecar.listeners import bind_tcp

_log = logging.getLogger("millirank.health")

# Anybody may ask; what a flood of questions can hold is bounded.
_CONCURRENT_CALLS = 32


class HealthServer:
    """Plaintext on purpose: it is asked without a certificate, and tells only whether the process serves."""

    def __init__(self, servicer: health.aio.HealthServicer, address: str) -> None:
        """``servicer`` is the one of the service's own listeners, so that all say the same."""
        self._address = address
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),), maximum_concurrent_rpcs=_CONCURRENT_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)

    async def start(self) -> str:
        """Open the listener. Returns its address. Raises ListenError."""
        address = bind_tcp(self._server, "listen.health", self._address)
        await self._server.start()
        _log.info("health", extra={"address": address})
        return address

    async def stop(self) -> None:
        """Close it at once."""
        await self._server.stop(0.0)
