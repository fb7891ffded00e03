"""Who may talk to the sidecar over the network: TLS, client certificates, a bearer token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from sidecar.errors import UnauthenticatedError, to_failure
from sidecar.messages import new_id
from sidecar.metrics import Metrics
from sidecar.settings import Tls

# Whoever probes health (a kubelet, a load balancer) has no token, and learns nothing but that the process lives.
_OPEN_METHODS = "/grpc.health.v1.Health/"
_SCHEME = "Bearer "


class SecurityError(Exception):
    """A certificate, key or token can't be used. The message names the setting and the fix."""


def credentials(tls: Tls) -> grpc.ServerCredentials | None:
    """Of the TCP listener; None for plaintext.

    The files are looked at in every handshake and read again when one has changed; a change that can't be read keeps
    what was there before, so that a rotation half-way through refuses nobody. Raises SecurityError.
    """
    if not tls.certificate:
        return None
    files = _PemFiles(tls)
    return grpc.dynamic_ssl_server_credentials(
        files.configuration(), files.changed_configuration, require_client_authentication=bool(tls.client_ca)
    )


class _PemFiles:
    def __init__(self, tls: Tls) -> None:
        self._paths = {
            name: Path(path)
            for name, path in (("certificate", tls.certificate), ("key", tls.key), ("client_ca", tls.client_ca))
            if path
        }
        self._seen = self._stamp()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Raises SecurityError."""
        texts = {name: _read(f"listen.tls.{name}", path) for name, path in self._paths.items()}
        for name, text in texts.items():
            if b"-----BEGIN " not in text:
                raise SecurityError(f"listen.tls.{name}: {self._paths[name]} is not a PEM file")
        return grpc.ssl_server_certificate_configuration(
            [(texts["key"], texts["certificate"])], root_certificates=texts.get("client_ca")
        )

    def changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, in every handshake; None where nothing has changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        try:
            configuration = self.configuration()
        except SecurityError:
            return None
        self._seen = stamp
        return configuration

    def _stamp(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in self._paths.values())
        except OSError:
            return ()


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
    token = _read("listen.token_file", path).strip()
    if len(token.split()) != 1:
        raise SecurityError(f"listen.token_file: {path} has to hold one token, without white space")
    return token


def carries(authorization: str, token: bytes) -> bool:
    """Whether the value of an ``authorization`` header is ``Bearer`` and the token, compared in constant time."""
    scheme, carried = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return scheme == _SCHEME and hmac.compare_digest(carried.encode(errors="surrogateescape"), token)


def is_loopback(host: str) -> bool:
    """Whether only this machine (in a pod: this pod) can reach it."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SecurityError(f"{setting}: {path} can't be read: {error.strerror}") from None
