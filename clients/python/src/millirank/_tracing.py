"""The client span and the context that travels to the sidecar. OpenTelemetry API only; never any text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from millirank._channel import SERVICE, server_attributes
from millirank._errors import RerankError
from millirank._ranking import Outcome, Ranking
from millirank._status import Failure

Metadata = tuple[tuple[str, str], ...]

_COMPLETENESS = {
    Outcome.RANKED: "full",
    Outcome.PARTIAL: "partial",
    Outcome.FIRST_STAGE: "first_stage_only",
}

# What gRPC takes as metadata (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md, Custom-Metadata); it refuses the
# whole call for one bad pair.
_METADATA_KEY = re.compile(r"^(?!grpc-)[0-9a-z_.-]+(?<!-bin)$")
_METADATA_VALUE = re.compile(r"^[\x20-\x7e]*$")


class Tracing:
    """Makes the spans of one client."""

    def __init__(self, target: str, provider: trace.TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("millirank", tracer_provider=provider)
        self._server = server_attributes(target)

    @contextmanager
    def span(self, method: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """A CLIENT span around one call. An exception sets its status and type, never a message."""
        rpc_method = f"{SERVICE}/{method}"
        with self._tracer.start_as_current_span(
            rpc_method,
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": rpc_method,
                **self._server,
                **attributes,
            },
            # Messages and stacks can hold query or document text.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                kind = error.reason.value if isinstance(error, RerankError) else type(error).__qualname__
                span.set_attribute("error.type", kind)
                span.set_status(Status(StatusCode.ERROR, kind))
                raise


def outgoing_metadata() -> Metadata:
    """The current context (traceparent, baggage, ...) as the global propagator writes it, as far as gRPC can
    carry it.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    pairs = ((key.lower(), value) for key, value in carrier.items())
    return tuple((key, value) for key, value in pairs if _METADATA_KEY.match(key) and _METADATA_VALUE.match(value))


def describe_failure(span: Span, failure: Failure) -> None:
    """Write on the span that the sidecar gave no usable answer, whatever the caller gets instead."""
    if failure.code:
        span.set_attribute("rpc.response.status_code", failure.code)
    span.set_attribute("error.type", failure.reason.value)
    span.set_status(Status(StatusCode.ERROR, failure.reason.value))


def describe(span: Span, ranking: Ranking[Any]) -> None:
    """Write how a rerank ended on its span."""
    if not span.is_recording():
        return
    span.set_attribute("millirank.completeness", _COMPLETENESS[ranking.outcome])
    span.set_attribute("millirank.fallback", ranking.fallback)
    if ranking.degradations:
        span.set_attribute("millirank.degradation", [reason.value for reason in ranking.reasons])
    if (decision := ranking.decision) is not None:
        span.set_attributes(
            {
                "millirank.strategy": decision.strategy.value,
                "millirank.reranker": decision.reranker,
                "millirank.reason": decision.reason.value,
                "millirank.planned_k": decision.planned_k,
                "millirank.scored_k": decision.scored_k,
                "millirank.cache": ranking.cache_status.value,
            }
        )
