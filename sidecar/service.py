"""The RPCs: bytes in, bytes out, one span each, and every exception turned into a status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import grpc
from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Tracer

from sidecar import wire
from sidecar.errors import Failure, MemoryBoundError
from sidecar.failures import report_failure
from sidecar.messages import Request
from sidecar.metrics import Metrics
from sidecar.pipeline import Pipeline
from sidecar.settings import Limits
from sidecar.spans import describe

SERVICE_NAME = "millirank.v1.RerankService"

_log = logging.getLogger("millirank.service")

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_Handle: TypeAlias = Callable[[Request, float | None, float, Span], Awaitable[bytes]]
_Parse: TypeAlias = Callable[[bytes, Limits], Request]


# gRPC sends a timeout of a second or more with three digits, rounded up, so that up to 1 % more seems to be left here
# than the caller will wait.
_ROUNDED_UP_FROM_S = 1.0
_ROUNDED_UP_BY = 1.01


class RerankService:
    """RerankService over a pipeline. Messages stay bytes up to here: parsing them is ours, so that bytes that can't
    be parsed get a precise answer instead of gRPC's UNKNOWN."""

    def __init__(self, pipeline: Pipeline, limits: Limits, tracer: Tracer, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._tracer = tracer
        self._metrics = metrics
        self._pending_bytes = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server registers."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Rerank": grpc.unary_unary_rpc_method_handler(self._rerank),
                "ExplainRoute": grpc.unary_unary_rpc_method_handler(self._explain_route),
            },
        )

    async def _rerank(self, data: bytes, context: _Context) -> bytes:
        return await self._answer("Rerank", data, context, wire.parse_rerank, self._do_rerank)

    async def _explain_route(self, data: bytes, context: _Context) -> bytes:
        return await self._answer("ExplainRoute", data, context, wire.parse_explain, self._do_explain)

    async def _do_rerank(self, request: Request, deadline_left_ms: float | None, arrived: float, span: Span) -> bytes:
        answer = await self._pipeline.rerank(request, deadline_left_ms, arrived)
        describe(span, answer)
        self._metrics.answered(answer)
        return wire.encode_answer(answer, request)

    async def _do_explain(self, request: Request, deadline_left_ms: float | None, arrived: float, span: Span) -> bytes:
        return wire.encode_explanation(self._pipeline.explain(request, deadline_left_ms, arrived))

    async def _answer(self, method: str, data: bytes, context: _Context, parse: _Parse, handle: _Handle) -> bytes:
        arrived = time.monotonic()
        # Read once: it follows the wall clock, which may step. From here on only the monotonic clock counts.
        left_ms = _left_ms(context.time_remaining())
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = ""
        with self._tracer.start_as_current_span(
            f"{SERVICE_NAME}/{method}",
            context=propagate.extract(metadata),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": SERVICE_NAME, "rpc.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                with self._under_way(len(data)):
                    request = parse(data, self._limits)
                    request_id = request.request_id
                    response = await handle(request, left_ms, arrived, span)
                span.set_attribute("rpc.grpc.status_code", 0)
                return response
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    self._metrics.abandoned()
                    raise  # the caller has gone
                # A cancellation from inside: left alone, it would let the caller wait for its whole deadline.
                failure = self._failed(error, request_id, method, span)
            except Exception as error:  # noqa: BLE001 - the one place where every exception becomes a status
                failure = self._failed(error, request_id, method, span)
        await context.abort(failure.code, failure.message, failure.trailing_metadata)
        raise AssertionError("abort raises")

    @contextlib.contextmanager
    def _under_way(self, size: int) -> Iterator[None]:
        """Counts a request's bytes while it is served. Raises MemoryBoundError; a request alone is always served."""
        if self._pending_bytes and self._pending_bytes + size > self._limits.pending_bytes:
            raise MemoryBoundError(self._pending_bytes)
        self._pending_bytes += size
        try:
            yield
        finally:
            self._pending_bytes -= size

    def _failed(self, error: BaseException, request_id: str, method: str, span: Span) -> Failure:
        # A request that could not be read has no id yet, and its caller needs one to quote.
        failure = report_failure(_log, error, request_id or uuid.uuid4().hex, method, span, self._metrics)
        span.set_attribute("rpc.grpc.status_code", failure.code.value[0])
        return failure


def _left_ms(left_s: float | None) -> float | None:
    """What is left of the caller's deadline, as gRPC tells it, in milliseconds that the caller surely waits."""
    if left_s is None:
        return None
    return left_s * 1e3 / (_ROUNDED_UP_BY if left_s >= _ROUNDED_UP_FROM_S else 1.0)
