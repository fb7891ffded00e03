"""Exceptions that end a request, and the one table that turns them into gRPC status and details."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from router.policy import RerankerOffError, UnknownCollectionError, UnknownRerankerError
from router.profile import ProfileError
from sidecar.pipeline import OverrunError, UnavailableError

DOMAIN = "millirank.io"
DETAILS_KEY = "grpc-status-details-bin"

# Reasons that HTTP has statuses of its own for.
BODY_TOO_LARGE = "BODY_TOO_LARGE"
BODY_TOO_SLOW = "BODY_TOO_SLOW"


class InvalidFieldError(ValueError):
    """A request field is wrong. ``field`` is its path (``documents[3].text``); the text says what would be right."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class BusyError(Exception):
    """As many requests as may run at the same time are running. (For gRPC, its own server says so.)"""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests are running, the most that limits.concurrent_requests allows; try again")


class BodyTooLargeError(Exception):
    """More than one message may have. (For gRPC, its own server says so.)"""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body has more than {limit} bytes, the most that limits.wire_bytes allows; send less")


class BodyTooSlowError(Exception):
    """A body that has not arrived in a time in which nobody waits for a ranking."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the body has not arrived within {seconds:g} s")


class UnauthenticatedError(Exception):
    """A call without the token that is asked for."""

    def __init__(self) -> None:
        super().__init__(
            "this sidecar asks for a token: send the metadata 'authorization: Bearer TOKEN' with the content of its "
            "listen.token_file"
        )


class MemoryBoundError(Exception):
    """More is under way than memory is given to."""

    def __init__(self, pending_bytes: int) -> None:
        super().__init__(
            f"requests of {pending_bytes:,} bytes are under way, and with this one they would be more than "
            "limits.pending_bytes; retry after some are answered, or raise the limit"
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """What the caller gets instead of an answer; ``reason`` is that of its ErrorInfo."""

    code: grpc.StatusCode
    message: str
    reason: str
    request_id: str
    details: bytes

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The rich status, as gRPC carries it."""
        return ((DETAILS_KEY, self.details),)


def to_failure(error: BaseException, request_id: str) -> Failure:
    """The status for an exception. What is not in the table is a bug: INTERNAL, and nothing of it is told."""
    match error:
        case InvalidFieldError():
            violation = BadRequest.FieldViolation(field=error.field, description=error.description)
            return _failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                str(error),
                "INVALID_FIELD",
                request_id,
                BadRequest(field_violations=[violation]),
            )
        case UnknownRerankerError():
            return _failure(grpc.StatusCode.NOT_FOUND, str(error), "UNKNOWN_RERANKER", request_id)
        case UnknownCollectionError():
            return _failure(grpc.StatusCode.NOT_FOUND, str(error), "UNKNOWN_COLLECTION", request_id)
        case RerankerOffError():
            return _failure(grpc.StatusCode.FAILED_PRECONDITION, str(error), "RERANKER_OFF", request_id)
        case UnauthenticatedError():
            return _failure(grpc.StatusCode.UNAUTHENTICATED, str(error), "TOKEN_MISSING_OR_WRONG", request_id)
        case MemoryBoundError():
            soon = RetryInfo(retry_delay=Duration(nanos=100_000_000))
            return _failure(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), "MEMORY_BOUND", request_id, soon)
        case ProfileError():
            return _failure(grpc.StatusCode.FAILED_PRECONDITION, str(error), "PROFILE_REFUSED", request_id)
        case BusyError():
            return _failure(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), "TOO_MANY_REQUESTS", request_id)
        case BodyTooLargeError():
            return _failure(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), BODY_TOO_LARGE, request_id)
        case BodyTooSlowError():
            return _failure(grpc.StatusCode.DEADLINE_EXCEEDED, str(error), BODY_TOO_SLOW, request_id)
        case OverrunError():
            return _failure(grpc.StatusCode.DEADLINE_EXCEEDED, str(error), error.reason.upper(), request_id)
        case UnavailableError():
            retry = RetryInfo(retry_delay=Duration(seconds=1))
            return _failure(grpc.StatusCode.UNAVAILABLE, str(error), error.reason.upper(), request_id, retry)
        case _:
            message = f"internal error; the log of the sidecar has it under request_id {request_id}"
            return _failure(grpc.StatusCode.INTERNAL, message, "INTERNAL", request_id)


def _failure(code: grpc.StatusCode, message: str, reason: str, request_id: str, *extra: Message) -> Failure:
    info = ErrorInfo(reason=reason, domain=DOMAIN, metadata={"request_id": request_id})
    status = Status(code=code.value[0], message=message)
    for detail in (info, *extra):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return Failure(code, message, reason, request_id, status.SerializeToString())
