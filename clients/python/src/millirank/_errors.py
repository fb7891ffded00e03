"""What this package raises. Everything derives from `MillirankError`."""

from __future__ import annotations

from millirank._ranking import Reason


class MillirankError(Exception):
    """Base of every exception that this package raises."""


class ClientStateError(MillirankError, RuntimeError):
    """The client can't be used here: it is closed, or belongs to another process or event loop."""


class RequestError(MillirankError):
    """The request is wrong and would be wrong again: raised also when the call is not strict."""


class InvalidRequestError(RequestError, ValueError):
    """An argument or a field of the request is wrong (INVALID_ARGUMENT); ``field`` names it if known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class RerankerNotFoundError(RequestError, LookupError):
    """The forced strategy or reranker does not exist in this sidecar (NOT_FOUND)."""


class RerankerOffError(RequestError):
    """The forced reranker is switched off (FAILED_PRECONDITION)."""


class RerankError(MillirankError):
    """No ordering as planned, where first-stage order was not wanted: a strict rerank, or an explain.

    ``code`` is the gRPC status name, '' where no status came; ``retry_after_ms`` is the sidecar's advice,
    None without.
    """

    def __init__(
        self,
        message: str,
        reason: Reason = Reason.SIDECAR_ERROR,
        code: str = "",
        retry_after_ms: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
        self.retry_after_ms = retry_after_ms
