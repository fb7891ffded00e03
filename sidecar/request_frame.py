"""What stands around every request, whichever listener took it: its span, its bytes, and how it ends.

Log, span and metrics learn of a failed request here, and never any text.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, use_span
from opentelemetry.util.types import AttributeValue

from sidecar.errors import Failure, MemoryBoundError, to_failure
from sidecar.logs import place
from sidecar.messages import Answer
from sidecar.metrics import Metrics
from sidecar.settings import Limits
from sidecar.spans import describe

_log = logging.getLogger("millirank.service")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as its listener sees it.

    ``method`` is for the log; ``headers`` may carry the caller's trace context. ``status_of`` gives the number that the
    protocol ends a request with (None: it went well), for the span's ``status_attribute``.
    """

    span_name: str
    method: str
    headers: Mapping[str, str]
    attributes: Mapping[str, AttributeValue]
    status_attribute: str
    status_of: Callable[[Failure | None], int]


class RequestFrame:
    """One for all listeners of a sidecar, so that their requests share one memory bound."""

    def __init__(
        self,
        limits: Limits,
        tracer: Tracer,
        metrics: Metrics,
        on_answer: Callable[[Span, Answer], None] | None = None,
    ) -> None:
        """``on_answer`` is told of every answer, too, right after it was sent."""
        self._limits = limits
        self._on_answer = on_answer
        self._tracer = tracer
        self._metrics = metrics
        self._pending_bytes = 0

    async def run(self, arrival: Arrival, handle: Callable[[UnderWay], Awaitable[_T]]) -> _T | Failure:
        """What ``handle`` returns, or the failure that its exception is. Raises CancelledError: the caller has gone."""
        span = self._tracer.start_span(
            arrival.span_name,
            context=propagate.extract(arrival.headers),
            kind=SpanKind.SERVER,
            attributes=arrival.attributes,
        )
        under_way = UnderWay(self, span)
        with use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                result = await handle(under_way)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    self._metrics.abandoned()
                    span.end()
                    raise  # the caller has gone
                # A cancellation from inside: left alone, it would let the caller wait for its whole deadline.
                return self._failed(error, arrival, under_way)
            except Exception as error:  # noqa: BLE001 - the one place where every exception becomes a status
                return self._failed(error, arrival, under_way)
            finally:
                self._pending_bytes -= under_way.bytes
            # The answer goes out first; span and metrics, which take as long as reading the request, come behind it.
            asyncio.get_running_loop().call_soon(self._ended, arrival, under_way, time.time_ns())
            return result

    def hold(self, under_way: UnderWay, size: int) -> None:
        """Counts more bytes of a request until it ends. Raises MemoryBoundError; a request alone is always served."""
        others = self._pending_bytes - under_way.bytes
        if others and self._pending_bytes + size > self._limits.pending_bytes:
            raise MemoryBoundError(self._pending_bytes)
        under_way.bytes += size
        self._pending_bytes += size

    def _ended(self, arrival: Arrival, under_way: UnderWay, at_ns: int) -> None:
        """Span, metrics and whoever else wants to know learn of a request that went well and was answered then."""
        span, answer = under_way.span, under_way.answer
        if answer is not None:
            describe(span, answer)
            self._metrics.answered(answer)
            if self._on_answer is not None:
                self._on_answer(span, answer)
        span.set_attribute(arrival.status_attribute, arrival.status_of(None))
        span.end(at_ns)

    def _failed(self, error: BaseException, arrival: Arrival, under_way: UnderWay) -> Failure:
        # A request that could not be read has no id yet, and its caller needs one to quote.
        request_id = under_way.request_id or uuid.uuid4().hex
        failure = to_failure(error, request_id)
        code = failure.code.name
        internal = failure.code is grpc.StatusCode.INTERNAL
        # An unexpected exception's message may quote a text: the log gets its type and place, never its words.
        _log.log(
            logging.ERROR if internal else logging.INFO,
            "request failed",
            extra={
                "request_id": request_id,
                "method": arrival.method,
                "code": code,
                **({"error": place(error)} if internal else {"detail": failure.message}),
            },
        )
        under_way.span.set_attribute("millirank.request_id", request_id)
        under_way.span.set_attribute(arrival.status_attribute, arrival.status_of(failure))
        under_way.span.set_status(Status(StatusCode.ERROR, code))
        under_way.span.end()
        self._metrics.failed(code)
        return failure


class UnderWay:
    """One request within the frame. Its handler sets ``request_id`` and ``answer`` as soon as it knows them."""

    __slots__ = ("_frame", "answer", "bytes", "request_id", "span")

    def __init__(self, frame: RequestFrame, span: Span) -> None:
        self._frame = frame
        self.span = span
        self.request_id = ""
        self.answer: Answer | None = None
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Counts more bytes of this request until it ends. Raises MemoryBoundError."""
        self._frame.hold(self, size)
