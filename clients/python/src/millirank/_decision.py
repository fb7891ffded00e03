"""What the sidecar's router decided, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto


class Strategy(StrEnum):
    """How candidates are reordered. UNSPECIFIED in an answer: a strategy that this client version does not
    know.
    """

    UNSPECIFIED = auto()
    AUTO = auto()
    NONE = auto()
    SIGNALS = auto()
    CROSS_ENCODER = auto()
    LATE_INTERACTION = auto()
    LLM = auto()
    CASCADE = auto()


class DecisionReason(StrEnum):
    """Why the router decided as it did. UNSPECIFIED: a reason that this client does not know."""

    UNSPECIFIED = auto()
    BEST_EXPECTED_GAIN = auto()
    FORCED = auto()
    BUDGET_TOO_SMALL = auto()
    NO_GAIN = auto()
    NOT_READY = auto()
    NOTHING_TO_DO = auto()
    MODE_OFF = auto()


class Verdict(StrEnum):
    """What the router concluded about one arm. UNSPECIFIED: a verdict that this client does not know."""

    UNSPECIFIED = auto()
    CHOSEN = auto()
    LOWER_GAIN = auto()
    NOT_WORTH_ITS_TIME = auto()
    OVER_BUDGET = auto()
    OVER_COST = auto()
    NO_GAIN = auto()
    NOT_ALLOWED = auto()
    NOT_READY = auto()
    OFF = auto()
    CIRCUIT_OPEN = auto()
    CANNOT_SCORE = auto()


class Mode(StrEnum):
    """What the sidecar as a whole was allowed to do."""

    UNSPECIFIED = auto()
    OFF = auto()
    OBSERVE = auto()
    ON = auto()


@dataclass(frozen=True, slots=True)
class ConsideredArm:
    """One thing that the router could have done: a reranker at a given number of candidates.

    Times are predictions in ms, queue included. ``expected_gain`` is the expected change of nDCG@10 against
    the first-stage order; ``detail`` says the verdict in words, for a person.
    """

    strategy: Strategy
    reranker: str
    rerank_k: int
    predicted_p50_ms: float
    predicted_p95_ms: float
    expected_gain: float
    predicted_cost_micro_usd: int
    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one request, and why.

    ``scored_k`` below ``planned_k`` means that the ranking's degradations say why. ``spendable_ms`` is what
    the router could spend after the sidecar's own reserve. ``profile_corpus`` is ``default`` where the
    request's corpus has no calibrated profile.
    """

    id: str
    strategy: Strategy
    reranker: str
    model_revision: str
    profile_corpus: str
    profile_revision: str
    planned_k: int
    scored_k: int
    reason: DecisionReason
    considered: tuple[ConsideredArm, ...]
    mode: Mode
    spendable_ms: float

    @property
    def chosen(self) -> ConsideredArm | None:
        """The considered arm that was taken; None where nothing was to be decided."""
        return next((arm for arm in self.considered if arm.verdict is Verdict.CHOSEN), None)
