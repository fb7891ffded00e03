"""``millirank health``: ask a running sidecar, over gRPC health, whether it serves. For probes and scripts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.settings import SettingsError, load

_EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--target",
        help="host:port or unix:/path (default: where a sidecar listens that has this environment's settings)",
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="TLS, trusting the authorities in this PEM file")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="SECONDS", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when it serves, 1 when it does not or can't be reached, 2 when the command is wrong."""
    try:
        trusted = grpc.ssl_channel_credentials(arguments.ca.read_bytes()) if arguments.ca else None
    except OSError as error:
        sys.stderr.write(f"millirank health: --ca {error.filename}: {error.strerror}\n")
        return _EXIT_USAGE
    try:
        target = arguments.target or _configured_target()
    except SettingsError as error:
        sys.stderr.write(f"millirank health: {error}\n")
        return _EXIT_USAGE
    with grpc.secure_channel(target, trusted) if trusted else grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=arguments.timeout
            )
        except grpc.RpcError as error:
            sys.stdout.write(f"{target}: {error.code().name}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stdout.write(f"{target}: {status}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _configured_target() -> str:
    """For a check from within the container, which shares the sidecar's environment. Where it listens for probes comes
    first, because there no certificate is asked for. Raises SettingsError."""
    config = os.environ.get("MILLIRANK_CONFIG")
    listen = load(Path(config) if config else None, os.environ).listen
    if listen.health:
        return listen.health
    return f"unix:{listen.unix}" if listen.unix else listen.tcp
