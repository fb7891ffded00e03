"""The RPCs: bytes in, bytes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import grpc

from sidecar import wire
from sidecar.errors import Failure
from sidecar.messages import Request
from sidecar.pipeline import Pipeline
from sidecar.request_frame import Arrival, RequestFrame, UnderWay
from sidecar.settings import Limits

SERVICE_NAME = "millirank.v1.RerankService"

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_Parse: TypeAlias = Callable[[bytes, Limits], Request]

# gRPC sends a timeout of a second or more with three digits, rounded up, so that up to 1 % more seems to be left here
# than the caller will wait.
_ROUNDED_UP_FROM_S = 1.0
_ROUNDED_UP_BY = 1.01


class RerankService:
    """RerankService over a pipeline. Messages stay bytes up to here: parsing them is ours, so that bytes that can't
    be parsed get a precise answer instead of gRPC's UNKNOWN."""

    def __init__(self, pipeline: Pipeline, limits: Limits, frame: RequestFrame) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._frame = frame

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server registers."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Rerank": grpc.unary_unary_rpc_method_handler(self.rerank),
                "ExplainRoute": grpc.unary_unary_rpc_method_handler(self.explain_route),
            },
        )

    async def rerank(self, data: bytes, context: _Context) -> bytes:
        """A RerankRequest in, a RerankResponse out; an error ends with ``context.abort``."""
        arrived, left_ms = time.monotonic(), _left_ms(context)

        async def handle(under_way: UnderWay) -> bytes:
            request = self._read(data, wire.parse_rerank, under_way)
            answer = await self._pipeline.rerank(request, left_ms, arrived)
            under_way.answer = answer
            return wire.encode_answer(answer, request)

        return await _ended(await self._frame.run(_arrival("Rerank", context), handle), context)

    async def explain_route(self, data: bytes, context: _Context) -> bytes:
        """An ExplainRouteRequest in, an ExplainRouteResponse out; an error ends with ``context.abort``."""
        arrived, left_ms = time.monotonic(), _left_ms(context)

        async def handle(under_way: UnderWay) -> bytes:
            request = self._read(data, wire.parse_explain, under_way)
            return wire.encode_explanation(self._pipeline.explain(request, left_ms, arrived))

        return await _ended(await self._frame.run(_arrival("ExplainRoute", context), handle), context)

    def _read(self, data: bytes, parse: _Parse, under_way: UnderWay) -> Request:
        under_way.hold(len(data))
        request = parse(data, self._limits)
        under_way.request_id = request.request_id
        return request


def _arrival(method: str, context: _Context) -> Arrival:
    return Arrival(
        span_name=f"{SERVICE_NAME}/{method}",
        method=method,
        headers={key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)},
        attributes={"rpc.system": "grpc", "rpc.service": SERVICE_NAME, "rpc.method": method},
        status_attribute="rpc.grpc.status_code",
        status_of=_status_of,
    )


def _status_of(failure: Failure | None) -> int:
    number: int = (grpc.StatusCode.OK if failure is None else failure.code).value[0]
    return number


async def _ended(result: bytes | Failure, context: _Context) -> bytes:
    """The answer; a failure ends the call."""
    if isinstance(result, Failure):
        await context.abort(result.code, result.message, result.trailing_metadata)
        raise AssertionError("abort raises")
    return result


def _left_ms(context: _Context) -> float | None:
    """What is left of the caller's deadline, as gRPC tells it, in milliseconds that the caller surely waits.

    To be read once: it follows the wall clock, which may step. From then on only the monotonic clock counts.
    """
    left_s = context.time_remaining()
    if left_s is None:
        return None
    return float(left_s) * 1e3 / (_ROUNDED_UP_BY if left_s >= _ROUNDED_UP_FROM_S else 1.0)
