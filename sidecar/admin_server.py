"""The operator's listener, apart from the one that reranks: loopback or a private socket, because it asks nobody who
they are."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidecar.admin_service import SERVICE_NAME, AdminService
from sidecar.listeners import ListenError, bind_tcp, bind_unix
from sidecar.security import is_loopback

_log = logging.getLogger("millirank.admin")

_SETTING = "listen.admin"
_UNIX = "unix:"


class AdminServer:
    """A gRPC server with AdminService, health and reflection."""

    def __init__(self, service: AdminService, address: str) -> None:
        """``address`` is host:port or unix:/path. Raises ListenError for a host that others can reach."""
        if not address.startswith(_UNIX) and ":" in address and not is_loopback(address.rpartition(":")[0]):
            raise ListenError(
                f"{_SETTING} is {address!r}; administration has no authentication, so it must be a loopback address, "
                "such as 127.0.0.1:50052, or unix:/path"
            )
        self._address = address
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> str:
        """Open the listener. Returns its address. Raises ListenError."""
        if self._address.startswith(_UNIX):
            address = bind_unix(self._server, _SETTING, Path(self._address.removeprefix(_UNIX)))
        else:
            address = bind_tcp(self._server, _SETTING, self._address)
        await self._server.start()
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        _log.info("administration", extra={"address": address})
        return address

    async def stop(self) -> None:
        """Close it at once: an operator's call can be made again."""
        await self._server.stop(0.0)
