"""``millirank health``: ask a running sidecar, over gRPC health, whether it serves. For probes and scripts."""

from __future__ import annotations

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--target", default="127.0.0.1:50051", help="host:port or unix:/path (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="SECONDS", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when it serves, 1 when it does not or can't be reached."""
    with grpc.insecure_channel(arguments.target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=arguments.timeout
            )
        except grpc.RpcError as error:
            sys.stdout.write(f"{arguments.target}: {error.code().name}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stdout.write(f"{arguments.target}: {status}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
