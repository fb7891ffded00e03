"""How this client connects: target, channel options, service config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

ChannelOptions = Sequence[tuple[str, Any]]

SERVICE = "millirank.v1.RerankService"
RERANK = f"/{SERVICE}/Rerank"
EXPLAIN_ROUTE = f"/{SERVICE}/ExplainRoute"

# grpc.health.v1 in bytes, so that the client needs no further package: HealthCheckRequest{} (the whole
# server), and HealthCheckResponse{status: SERVING}.
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""
HEALTH_SERVING = b"\x08\x01"

_RESOLVER_SCHEMES = ("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:")
_TOKEN = re.compile(r"^[\x20-\x7e]*$")
_HOST_PORT = re.compile(r"^(\[[0-9a-fA-F:.%\w]+\]|[^:/\s\[\]]+):(\d{1,5})$")
# Nothing that is sent there passes a network.
_THIS_MACHINE = re.compile(r"^(unix|unix-abstract):|^(dns:///|ipv[46]:)?(localhost|127(\.\d{1,3}){3}|\[::1\]):\d{1,5}$")

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            # One more attempt, and only where the first one did not reach a sidecar (it is being restarted).
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.005s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

_DEFAULTS: Mapping[str, Any] = {
    "grpc.service_config": json.dumps(_SERVICE_CONFIG),
    # A request above this is not kept for the second attempt; gRPC's own 256 KiB is less than 100 long
    # documents.
    "grpc.per_rpc_retry_buffer_size": 4 * 1024 * 1024,
    # A sidecar that restarts is a matter of 100 ms, not of gRPC's 1 s growing to 2 min.
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 100,
    # In spite of its name this is also how long one connection attempt may take. At 50 or 100 ms, a peer
    # whose handshake takes 150 ms (a loaded machine, TLS) is never reached at all.
    "grpc.min_reconnect_backoff_ms": 1000,
    # Setting a keepalive makes the kernel give up on a peer that vanished without a word after the timeout
    # (TCP user timeout). Pings go out only while calls run, so that no server takes them for abuse.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 5_000,
    # Of every ping, keepalive's included: at its default of 60 s a connection on which bytes go nowhere, though
    # something in between acknowledges them, was kept for that long (measured with grpcio 1.85).
    "grpc.http2.ping_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 0,
    # The sidecar's limit decides: 4 MiB by default, its operator can raise it.
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": 16 * 1024 * 1024,
    # The sidecar is next door; an http_proxy in the environment is not meant for it.
    "grpc.enable_http_proxy": 0,
}


def check_target(target: str) -> str:
    """``target`` if gRPC will understand it as meant. Raises TypeError or ValueError naming the fix."""
    if not isinstance(target, str):
        raise TypeError(f"target is a {type(target).__name__}; pass a str such as '127.0.0.1:50051'")
    if target.startswith(_RESOLVER_SCHEMES):
        return target
    if "://" in target:
        raise ValueError(f"target {target!r} looks like a URL; pass 'host:port' or 'unix:/path' (TLS is credentials=)")
    match = _HOST_PORT.match(target)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"target {target!r} has no valid port; pass 'host:port' or 'unix:/path'")
    return target


def check_token(token: str, target: str, *, encrypted: bool) -> str:
    """``token`` if it can be sent to ``target`` without anyone on the way learning it. Raises ValueError.

    gRPC's own rule for call credentials (grpc.io/docs/guides/auth), plus loopback.
    """
    if not (_TOKEN.match(token) and token == token.strip()):
        raise ValueError("token must be printable ASCII without white space around it; did a line end come along?")
    if token and not encrypted and not _THIS_MACHINE.match(target):
        raise ValueError(
            f"token would go to {target} in plain text; pass credentials=grpc.ssl_channel_credentials(), or a target "
            "on this machine ('unix:/path', loopback)"
        )
    return token


def channel_options(own: ChannelOptions) -> list[tuple[str, Any]]:
    """This client's defaults, each replaced by the caller's own option of the same name."""
    try:
        merged = {**_DEFAULTS, **dict(own)}
    except (TypeError, ValueError) as error:
        raise TypeError("options has to be a list of (name, value) pairs, as grpc.insecure_channel takes it") from error
    return list(merged.items())


def server_attributes(target: str) -> dict[str, str | int]:
    """``server.address`` and ``server.port`` of the target, for spans."""
    match = _HOST_PORT.match(target)
    if match is None:
        return {"server.address": target}
    return {"server.address": match[1].strip("[]"), "server.port": int(match[2])}
