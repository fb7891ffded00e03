"""A request that ends with an error: its status, and what log, span and metrics are told of it. Never any text."""

from __future__ import annotations

import logging

import grpc
from opentelemetry.trace import Span, Status, StatusCode

from sidecar.errors import Failure, to_failure
from sidecar.logs import place
from sidecar.metrics import Metrics


def report_failure(
    log: logging.Logger, error: BaseException, request_id: str, method: str, span: Span, metrics: Metrics
) -> Failure:
    """What the caller gets. ``request_id`` is told everywhere, so that the caller can quote it."""
    failure = to_failure(error, request_id)
    code = failure.code.name
    internal = failure.code is grpc.StatusCode.INTERNAL
    # An unexpected exception's message may quote a text: the log gets its type and place, never its words.
    log.log(
        logging.ERROR if internal else logging.INFO,
        "request failed",
        extra={
            "request_id": request_id,
            "method": method,
            "code": code,
            **({"error": place(error)} if internal else {"detail": failure.message}),
        },
    )
    span.set_attribute("millirank.request_id", request_id)
    span.set_status(Status(StatusCode.ERROR, code))
    metrics.failed(code)
    return failure
