"""Who may talk to the sidecar over the network: a bearer token, and what is said of plaintext. `sidecar.tls` is TLS."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from sidecar.errors import UnauthenticatedError, to_failure
from sidecar.messages import new_id
from sidecar.metrics import Metrics

# Whoever probes health (a kubelet, a load balancer) has no token, and learns nothing but that the process lives.
_OPEN_METHODS = "/grpc.health.v1.Health/"
_SCHEME = "Bearer "


class SecurityError(Exception):
    """A certificate, key or token can't be used. The message names the setting and the fix."""


class RequireToken(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpcio has no types
    """Answers UNAUTHENTICATED to every call but health checks that does not carry the token."""

    def __init__(self, token_file: Path, metrics: Metrics) -> None:
        """Raises SecurityError."""
        self._expected = read_token(token_file)
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's own handler, or one that refuses."""
        if handler_call_details.method.startswith(_OPEN_METHODS) or self._carried(handler_call_details):
            return await continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    def _carried(self, details: grpc.HandlerCallDetails) -> bool:
        for key, value in details.invocation_metadata or ():
            if key == "authorization" and isinstance(value, str):
                return carries(value, self._expected)
        return False

    async def _refuse(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        failure = to_failure(UnauthenticatedError(), new_id())
        self._metrics.failed(failure.code.name)
        await context.abort(failure.code, failure.message, failure.trailing_metadata)
        raise AssertionError("abort raises")


def read_token(path: Path) -> bytes:
    """The token that callers have to carry. Raises SecurityError."""
    token = read_file("listen.token_file", path).strip()
    if len(token.split()) != 1:
        raise SecurityError(f"listen.token_file: {path} has to hold one token, without white space")
    return token


def carries(authorization: str, token: bytes) -> bool:
    """Whether the value of an ``authorization`` header is ``Bearer`` and the token, compared in constant time."""
    scheme, carried = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return scheme == _SCHEME and hmac.compare_digest(carried.encode(errors="surrogateescape"), token)


def warn_of_plaintext(log: logging.Logger, setting: str, address: str, tls: bool) -> None:
    """Says aloud that an address which others can reach is not encrypted. Meshes need it so; hardly anybody else."""
    if not tls and not is_loopback(address.rpartition(":")[0]):
        log.warning(
            "plaintext listener off loopback: anybody who reaches it can read what is searched; set listen.tls, or "
            "keep it behind a mesh that encrypts",
            extra={"setting": setting, "address": address},
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine (in a pod: this pod) can reach it."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_file(setting: str, path: Path) -> bytes:
    """Raises SecurityError naming ``setting``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SecurityError(f"{setting}: {path} can't be read: {error.strerror}") from None
