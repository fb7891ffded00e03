"""What flows between the layers of the sidecar: a request, an answer, and the words that explain it.

Plain frozen dataclasses. `sidecar.wire` is the only place that knows how they look as protobuf.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from router.policy import Decision, Routing
from router.traits import Traits
from sidecar.rerankers.base import IndexedRef
from sidecar.settings import Mode


class Overrun(StrEnum):
    """What to do when the plan can't be carried out in full."""

    BEST_EFFORT = "best_effort"
    FAIL = "fail"


class Completeness(StrEnum):
    """How much of the planned work is in the answer."""

    FULL = "full"
    PARTIAL = "partial"
    FIRST_STAGE_ONLY = "first_stage_only"


class DegradationReason(StrEnum):
    """Why an answer is less than planned (DESIGN section 6, invariant 5)."""

    BUDGET_TOO_SMALL = "budget_too_small"
    BUDGET_EXHAUSTED = "budget_exhausted"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    BACKEND_ERROR = "backend_error"
    BACKEND_TIMEOUT = "backend_timeout"
    CIRCUIT_OPEN = "circuit_open"
    BAD_OUTPUT = "bad_output"
    INDEX_UNAVAILABLE = "index_unavailable"
    DRAINING = "draining"
    INTERNAL = "internal"


class CacheStatus(StrEnum):
    """Whether the answer was computed for this request."""

    MISS = "miss"
    HIT = "hit"
    SHARED = "shared"


class ScoreSource(StrEnum):
    """Where a result's score comes from."""

    FIRST_STAGE = "first_stage"
    SIGNALS = "signals"
    RERANKER = "reranker"


class Candidate(NamedTuple):
    """One candidate as sent, its text already cut to the limit. Its position in the request is its rank.

    A named tuple, like `Ranked`: hundreds are made per request, and a frozen dataclass takes four times as long.
    """

    id: str
    text: str
    signals: Mapping[str, float]
    truncated: bool = False
    indexed_ref: IndexedRef | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request. ``budget_ms`` and ``max_micro_usd`` are None where the caller named none.

    ``deadline_slack_ms`` is by how much the call's deadline is later than the end of ``budget_ms``; None: not known.
    """

    request_id: str
    corpus: str
    query: str
    candidates: tuple[Candidate, ...]
    top_n: int = 0
    budget_ms: float | None = None
    deadline_slack_ms: float | None = None
    max_micro_usd: int | None = None
    overrun: Overrun = Overrun.BEST_EFFORT
    routing: Routing = field(default_factory=Routing)
    instruction: str = ""
    min_score: float | None = None
    use_cache: bool = True
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Degradation:
    """Why an answer is less than planned; ``detail`` never holds query or document text."""

    reason: DegradationReason
    detail: str


class Ranked(NamedTuple):
    """One candidate in the new order; ``position`` is the one it had in the request."""

    position: int
    score: float | None
    raw_score: float | None
    source: ScoreSource


@dataclass(frozen=True, slots=True)
class Usage:
    """What was computed: query-document pairs, those that needed no model run, tokens, price."""

    pairs: int = 0
    cached_pairs: int = 0
    tokens: int = 0
    micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, in milliseconds on the monotonic clock."""

    total_ms: float
    route_ms: float
    queue_ms: float
    score_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an arm made of the candidates: what may be kept and shared between equal requests.

    ``model_revision`` is that of the model that scored, where it may not be the one that was planned with; '' is that.
    """

    ranked: tuple[Ranked, ...]
    scored_k: int
    completeness: Completeness
    degradations: tuple[Degradation, ...] = ()
    usage: Usage = field(default_factory=Usage)
    queue_ms: float = 0.0
    score_ms: float = 0.0
    model_revision: str = ""


def new_id() -> str:
    """A fresh id for a request or a decision, 32 hex digits. No secret: random, not unpredictable.

    (`uuid4` reads the kernel's random numbers, which hands the interpreter to whichever thread waits for it.)
    """
    return f"{random.getrandbits(128):032x}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with everything that a person needs to understand it."""

    decision_id: str
    decision: Decision
    traits: Traits
    profile_corpus: str
    profile_revision: str
    model_revision: str
    mode: Mode
    spendable_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    request_id: str
    explanation: Explanation
    outcome: Outcome
    cache: CacheStatus
    timing: Timing
