"""One call of a service that is somebody else's, on the trace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue


@contextlib.contextmanager
def traced_call(tracer: Tracer, operation: str, model: str, url: str) -> Iterator[Span]:
    """A client span ``chat gpt-4o-mini``: OpenTelemetry's conventions for generative AI clients.

    Of ``url`` only host and port are told: the rest may hold a password. Of an error only its type is: its words may
    quote a text.
    """
    parts = urlsplit(url)
    told = {"gen_ai.request.model": model, "server.address": parts.hostname, "server.port": parts.port}
    attributes: dict[str, AttributeValue] = {key: value for key, value in told.items() if value}
    attributes["gen_ai.operation.name"] = operation
    with tracer.start_as_current_span(
        f"{operation} {model}".rstrip(),
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except asyncio.CancelledError:
            # Time was up, or the caller has gone: the score span above says which.
            span.set_attribute("error.type", "cancelled")
            raise
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
