"""The vocabulary of routing: what is asked, what is known about each reranker, what is decided and why.

Names match the wire contract's `DecisionReason` and `Verdict`. Import these from `router.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from router.arms import Availability, Strategy, Work
from router.latency import Pace


class Reason(StrEnum):
    """Why the decision is what it is."""

    BEST_EXPECTED_GAIN = "best_expected_gain"
    FORCED = "forced"
    BUDGET_TOO_SMALL = "budget_too_small"
    NO_GAIN = "no_gain"
    NOT_READY = "not_ready"
    NOTHING_TO_DO = "nothing_to_do"
    MODE_OFF = "mode_off"  # never returned by `choose`: the pipeline's own, when it is switched off


class Verdict(StrEnum):
    """What was concluded about one arm."""

    CHOSEN = "chosen"
    LOWER_GAIN = "lower_gain"
    NOT_WORTH_ITS_TIME = "not_worth_its_time"
    OVER_BUDGET = "over_budget"
    OVER_COST = "over_cost"
    NO_GAIN = "no_gain"
    NOT_ALLOWED = "not_allowed"
    NOT_READY = "not_ready"
    OFF = "off"
    CANNOT_SCORE = "cannot_score"
    CIRCUIT_OPEN = "circuit_open"


@dataclass(frozen=True, slots=True)
class Routing:
    """What the caller asks for.

    ``strategy`` None is AUTO. A strategy or a ``reranker`` by name forces that arm. ``allowed`` narrows AUTO
    (empty: all; NONE is always allowed). ``rerank_k`` fixes how many candidates are scored (0: the router
    chooses).
    """

    strategy: Strategy | None = None
    reranker: str = ""
    allowed: frozenset[Strategy] = frozenset()
    rerank_k: int = 0


@dataclass(frozen=True, slots=True)
class RerankerView:
    """One configured reranker, as far as this request is concerned.

    ``pace`` is how long its work takes without the queue; ``queue_ms`` is the wait before it starts.
    ``assumed_gain`` (nDCG@10) stands in where the profile has no calibrated curve. ``whole_list`` rerankers
    score all candidates in a single call, so running out of time leaves nothing; ``max_documents`` is the most that
    one answer can cover (None: any number). ``queued_k``: behind others, fewer candidates than that are not worth a
    place (0: any number is).
    """

    name: str
    strategy: Strategy
    availability: Availability
    work: Work
    pace: Pace
    queue_ms: float = 0.0
    assumed_gain: float | None = None
    whole_list: bool = False
    max_documents: int | None = None
    queued_k: int = 0


class ConsideredArm(NamedTuple):
    """One arm, its predictions (ms with queue, nDCG@10, micro-USD) and what was concluded, in words too.

    A named tuple because twenty are made per request, and a frozen dataclass takes four times as long to make.
    """

    strategy: Strategy
    reranker: str
    rerank_k: int
    p50_ms: float
    p95_ms: float
    expected_gain: float
    micro_usd: int
    verdict: Verdict
    why: tuple[str | float, ...]
    """A template and what goes into it: `detail` is put into words only where somebody reads it."""

    @property
    def detail(self) -> str:
        """The verdict in words, for a person."""
        template, *facts = self.why
        return str(template).format(*facts)


class Decision(NamedTuple):
    """The arm taken, with its predictions, and every arm that was looked at (the chosen one included).

    ``signal_set`` is the key of the profile's gains and weights that this request falls under.
    """

    strategy: Strategy
    reranker: str
    planned_k: int
    reason: Reason
    predicted_p50_ms: float
    predicted_p95_ms: float
    expected_gain: float
    considered: tuple[ConsideredArm, ...]
    signal_set: str


class UnknownRerankerError(LookupError):
    """A strategy or reranker was forced that is not configured. The message lists what is."""


class UnknownCollectionError(LookupError):
    """A reranker was forced on documents of a collection that is not configured. The message lists what is."""


class RerankerOffError(RuntimeError):
    """A reranker was forced that is switched off. The message carries the reason."""
