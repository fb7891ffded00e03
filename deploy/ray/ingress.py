"""RerankService in front of the models: the sidecar's own pipeline, reached through Ray's gRPC proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

import grpc
from grpc_health.v1 import health_pb2
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle

from deploy.ray.handle_transport import HandleTransport
from router.arms import Strategy
from sidecar.assemble_core import build_core
from sidecar.reranker_settings import PoolCrossEncoder
from sidecar.rerankers.pool import PoolReranker
from sidecar.service import SERVICE_NAME
from sidecar.settings import Settings

_SERVED = frozenset({"", SERVICE_NAME})


class Encoded(bytes):
    """An answer's bytes. Ray takes any object that it can ask for them."""

    def SerializeToString(self) -> bytes:
        """The bytes themselves."""
        return bytes(self)


class _AbortedError(Exception):
    """Ends a call inside the service, after its status is set."""


class _Context:
    """Ray's context of a call as the service wants gRPC's.

    Ray's proxy does not tell the caller's deadline, so that the budget in the request is all that is known.
    """

    def __init__(self, context: RayServegRPCContext) -> None:
        self._context = context

    def time_remaining(self) -> None:
        """Not known."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What the caller sent, the trace context among it."""
        metadata: Sequence[tuple[str, str | bytes]] = self._context.invocation_metadata()
        return metadata

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Sets the status; Ray would lose the details of an exception."""
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailing_metadata))
        raise _AbortedError


class Ingress:
    """A sidecar's core whose models are elsewhere. Its methods are those of the gRPC services in `services`."""

    async def __init__(self, settings: Settings, models: Mapping[str, DeploymentHandle]) -> None:  # type: ignore[misc]
        """Raises SettingsError, ProfileError or TelemetryError."""
        elsewhere = {name: _pooled(name, settings, handle) for name, handle in models.items()}
        self._core = build_core(settings, os.environ, elsewhere=elsewhere)
        await self._core.start()

    async def Rerank(self, data: bytes, grpc_context: RayServegRPCContext) -> Encoded:
        """`RerankService.Rerank`."""
        try:
            return Encoded(await self._core.service.rerank(data, _Context(grpc_context)))
        except _AbortedError:
            return Encoded()

    async def ExplainRoute(self, data: bytes, grpc_context: RayServegRPCContext) -> Encoded:
        """`RerankService.ExplainRoute`."""
        try:
            return Encoded(await self._core.service.explain_route(data, _Context(grpc_context)))
        except _AbortedError:
            return Encoded()

    async def Check(self, data: bytes, grpc_context: RayServegRPCContext) -> Encoded:
        """`grpc.health.v1.Health.Check`: SERVING as soon as there is an ingress, as a sidecar is: while models load,
        requests are answered in first-stage order."""
        service = health_pb2.HealthCheckRequest.FromString(data).service
        if service not in _SERVED:
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
            return Encoded()
        return Encoded(
            health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
        )

    async def __del__(self) -> None:
        """Called by Ray when the replica is to end, after its last request."""
        await self._core.stop()


def _pooled(name: str, settings: Settings, handle: DeploymentHandle) -> PoolReranker:
    configured = settings.rerankers[name]
    # What the model reads, unless the settings say so, is only known where it is loaded.
    max_tokens = getattr(configured, "max_tokens", 0) or PoolCrossEncoder.model_fields["max_tokens"].default
    return PoolReranker(name, Strategy(configured.strategy), lambda: HandleTransport(handle), max_tokens=max_tokens)
