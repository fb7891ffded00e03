"""Python client of Millirank, the sidecar that reranks within a latency budget."""

from millirank._aio import AsyncClient
from millirank._client import Client
from millirank._decision import ConsideredArm, Decision, DecisionReason, Mode, Strategy, Verdict
from millirank._errors import (
    ClientStateError,
    InvalidRequestError,
    MillirankError,
    RequestError,
    RerankerNotFoundError,
    RerankerOffError,
    RerankError,
)
from millirank._ranking import (
    CacheStatus,
    Degradation,
    Document,
    Outcome,
    Ranked,
    Ranking,
    Reason,
    Timing,
    Usage,
)
from millirank._stats import Stats

__all__ = [
    "AsyncClient",
    "CacheStatus",
    "Client",
    "ClientStateError",
    "ConsideredArm",
    "Decision",
    "DecisionReason",
    "Degradation",
    "Document",
    "InvalidRequestError",
    "MillirankError",
    "Mode",
    "Outcome",
    "Ranked",
    "Ranking",
    "Reason",
    "RequestError",
    "RerankError",
    "RerankerNotFoundError",
    "RerankerOffError",
    "Stats",
    "Strategy",
    "Timing",
    "Usage",
    "Verdict",
]
