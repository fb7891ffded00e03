"""One connection, one request after the other, bytes in and bytes out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence

import grpc
from millirank.v1 import rerank_service_pb2 as pb

RERANK = "/millirank.v1.RerankService/Rerank"

_OPTIONS = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # One connection for each channel, so that what is compared shares nothing.
    ("grpc.use_local_subchannel_pool", 1),
)
_TIMEOUT_S = 60.0


class Connection:
    """One channel with raw blocking stubs. `grpc`, not `grpc.aio`: the blocking stub adds least of its own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, data: bytes) -> bytes:
        """One call. Raises grpc.RpcError."""
        answer: bytes = self._channel.unary_unary(method)(data, timeout=_TIMEOUT_S)
        return answer

    def latencies_ms(self, method: str, data: bytes, requests: int) -> list[float]:
        """How long each of ``requests`` equal calls took, one after the other."""
        stub = self._channel.unary_unary(method)
        clock = time.perf_counter
        taken = []
        for _ in range(requests):
            before = clock()
            stub(data, timeout=_TIMEOUT_S)
            taken.append((clock() - before) * 1e3)
        return taken

    def rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        """One `Rerank`. Raises grpc.RpcError."""
        return pb.RerankResponse.FromString(self.call(RERANK, request.SerializeToString()))


@contextlib.contextmanager
def connect(target: str) -> Iterator[Connection]:
    """A connection of its own to ``host:port`` or ``unix:/path``."""
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        yield Connection(channel)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
