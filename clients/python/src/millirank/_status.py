"""gRPC status -> the caller's mistake (an exception) or the sidecar's failure (plain data). The only such
table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from millirank._errors import (
    InvalidRequestError,
    RequestError,
    RerankerNotFoundError,
    RerankerOffError,
    RerankError,
)
from millirank._ranking import Reason

_DETAILS_KEY = "grpc-status-details-bin"
_ERROR_DOMAIN = "millirank.io"

_REASONS = {
    # CANCELLED is what a call in flight gets when either end closes the connection under it.
    grpc.StatusCode.UNAVAILABLE: Reason.SIDECAR_UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Reason.SIDECAR_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.SIDECAR_TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """No usable answer came, through no mistake of the caller. ``code`` is '' where no gRPC status came."""

    reason: Reason
    detail: str
    code: str = ""
    retry_after_ms: float | None = None

    def as_error(self) -> RerankError:
        """The exception for callers who do not want first-stage order instead."""
        return RerankError(f"{self.reason}: {self.detail}", self.reason, self.code, self.retry_after_ms)


@dataclass(frozen=True, slots=True)
class _Details:
    """What the google.rpc.Status in the trailers says, as far as this client acts on it."""

    field: str = ""
    reason: Reason | None = None
    retry_after_ms: float | None = None


def read_status(
    code: grpc.StatusCode, message: str | None, trailers: Iterable[tuple[str, str | bytes]] | None
) -> RequestError | Failure:
    """Sort a status that is not OK into the caller's mistakes and everything else."""
    details = _read_details(trailers or ())
    text = message or "no message"
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequestError(text, details.field)
    if code is grpc.StatusCode.NOT_FOUND:
        return RerankerNotFoundError(text)
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return RerankerOffError(text)
    reason = details.reason or _REASONS.get(code, Reason.SIDECAR_ERROR)
    return Failure(reason, f"{code.name}: {text}", code.name, details.retry_after_ms)


def read_error(error: Any) -> RequestError | Failure:
    """`read_status` of a grpc.RpcError that has a status (both the sync and the aio kind)."""
    return read_status(error.code(), error.details(), error.trailing_metadata())


def _read_details(trailers: Iterable[tuple[str, str | bytes]]) -> _Details:
    packed = next((value for key, value in trailers if key == _DETAILS_KEY), b"")
    status = status_pb2.Status()
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    has_retry = False
    try:
        status.ParseFromString(packed)
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
            has_retry |= detail.Unpack(retry)
    except DecodeError:
        # Trailers of something that is not Millirank (a proxy): the status code alone has to do.
        return _Details()
    return _Details(
        field=bad.field_violations[0].field if bad.field_violations else "",
        reason=_reason(info.reason) if info.domain == _ERROR_DOMAIN else None,
        retry_after_ms=retry.retry_delay.ToTimedelta().total_seconds() * 1e3 if has_retry else None,
    )


def _reason(name: str) -> Reason | None:
    """The reason that ErrorInfo names; None where it names an error that is no degradation."""
    return Reason.__members__.get(name)
