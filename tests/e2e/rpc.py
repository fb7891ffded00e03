"""Calls over a real channel, and what their errors carry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc

# Far beyond what any answer may take: it only ends a test that hangs.
TIMEOUT_S = 30.0

# Documents in first-stage order, of which a scripted reranker makes 1, 2, 0.
TEXTS = ("blue", "red green", "red")
RERANK = "/millirank.v1.RerankService/Rerank"
FAIL = pb.Budget(overrun_policy=pb.OVERRUN_POLICY_FAIL)


@dataclass(frozen=True, slots=True)
class RpcFailure:
    """A status that is not OK, with its google.rpc details where it has them."""

    code: str
    message: str
    info: ErrorInfo
    fields: dict[str, str]
    retry_s: float | None
    raw: bytes


def message(*texts: str, query: str = "red green", budget_ms: float | None = None, **fields: Any) -> pb.RerankRequest:
    """A request for ``texts``."""
    sent = pb.RerankRequest(query=query, **fields)
    for number, text in enumerate(texts):
        sent.documents.add(id=f"id-{number}", text=text)
    if budget_ms is not None:
        sent.budget.latency.CopyFrom(milliseconds(budget_ms))
    return sent


def milliseconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e6))
    return duration


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[pb_grpc.RerankServiceStub]:
    """A stub over a channel of its own."""
    # Subchannels are shared within a process by default, also by tests that restart servers on one address.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield pb_grpc.RerankServiceStub(channel)


async def rerank(stub: pb_grpc.RerankServiceStub, sent: pb.RerankRequest) -> pb.RerankResponse:
    """The answer to ``sent``, waited for as long as any test may take."""
    return await stub.Rerank(sent, timeout=TIMEOUT_S)


async def failure_of(call: Any) -> RpcFailure:
    """The error that a call ends with; the test fails if it succeeds."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read_failure(caught.value)


def read_failure(error: Any) -> RpcFailure:
    """Code, message and rich details of a gRPC error."""
    trailers = dict(error.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin", b"")
    status = Status.FromString(packed)
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    has_retry = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        has_retry |= detail.Unpack(retry)
    if packed:
        # Both places say the same, or a client that reads only one of them is misled.
        assert (status.code, status.message) == (error.code().value[0], error.details())
    return RpcFailure(
        code=error.code().name,
        message=error.details() or "",
        info=info,
        fields={violation.field: violation.description for violation in bad.field_violations},
        retry_s=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
        raw=packed,
    )


def order_of(response: pb.RerankResponse) -> list[int]:
    return [result.index for result in response.results]


def reasons_of(response: pb.RerankResponse) -> list[str]:
    """Degradations without their common prefix: ``BUDGET_TOO_SMALL``."""
    names = pb.DegradationReason.Name
    return [names(each.reason).removeprefix("DEGRADATION_REASON_") for each in response.degradations]
