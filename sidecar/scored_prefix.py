"""What scoring has come to: the scores so far, what they took, and why there are no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.messages import Degradation, DegradationReason, Usage
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    IndexUnavailableError,
    NotReadyError,
    OverloadedError,
    RerankerError,
    Scored,
)

# What an answer's degradation is to whoever asked for the scores; None: there was no time.
_ERRORS: Mapping[DegradationReason, type[RerankerError] | None] = {
    DegradationReason.BUDGET_TOO_SMALL: None,
    DegradationReason.BUDGET_EXHAUSTED: None,
    DegradationReason.BACKEND_TIMEOUT: None,
    DegradationReason.OVERLOADED: OverloadedError,
    DegradationReason.NOT_READY: NotReadyError,
    DegradationReason.DRAINING: NotReadyError,
    DegradationReason.BACKEND_ERROR: BackendError,
    DegradationReason.CIRCUIT_OPEN: CircuitOpenError,
    DegradationReason.BAD_OUTPUT: BadOutputError,
    DegradationReason.INDEX_UNAVAILABLE: IndexUnavailableError,
    DegradationReason.INTERNAL: BackendError,
}
_REASONS: tuple[tuple[type[RerankerError], DegradationReason], ...] = (
    (BadOutputError, DegradationReason.BAD_OUTPUT),
    (NotReadyError, DegradationReason.NOT_READY),
    (CircuitOpenError, DegradationReason.CIRCUIT_OPEN),
    (OverloadedError, DegradationReason.OVERLOADED),
    (IndexUnavailableError, DegradationReason.INDEX_UNAVAILABLE),
    (BackendError, DegradationReason.BACKEND_ERROR),
    (RerankerError, DegradationReason.BACKEND_ERROR),
)


@dataclass(frozen=True, slots=True)
class ScoredPrefix:
    """Scores of the first ``len(scores)`` candidates, and why there are not more of them, if there should be.

    ``unscored`` are positions among them that the model left out. ``revision`` as in `Scored`.
    """

    scores: tuple[float, ...]
    unscored: frozenset[int]
    degradation: Degradation | None
    usage: Usage
    queue_ms: float
    score_ms: float
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A chunk without scores, and what its backend charges all the same."""

    degradation: Degradation
    micro_usd: float = 0.0


@dataclass(slots=True)
class Progress:
    """What has been scored so far, what it took, and why it goes no further."""

    scores: list[float] = field(default_factory=list)
    unscored: set[int] = field(default_factory=set)
    parts: list[Scored] = field(default_factory=list)
    degradation: Degradation | None = None
    waited_ms: float = 0.0
    wasted_micro_usd: float = 0.0

    def take(self, result: Scored | Failure) -> None:
        """Add a chunk, or give up."""
        if isinstance(result, Failure):
            self.degradation = result.degradation
            self.wasted_micro_usd = result.micro_usd
            if result.degradation.reason is DegradationReason.BAD_OUTPUT:
                # A model that answers nonsense once is not trusted for the chunks before either.
                self.scores.clear()
                self.unscored.clear()
            return
        first = len(self.scores)
        self.scores.extend(result.scores)
        self.unscored.update(first + position for position in result.unscored)
        self.parts.append(result)
        if result.shortfall:
            self.degradation = Degradation(reason_of(result.shortfall_error), result.shortfall)

    def as_prefix(self) -> ScoredPrefix:
        """The result."""
        pairs = len(self.scores) - len(self.unscored)
        return ScoredPrefix(
            scores=tuple(self.scores),
            unscored=frozenset(self.unscored),
            degradation=self.degradation,
            usage=Usage(
                pairs=pairs,
                cached_pairs=min(pairs, sum(part.cached for part in self.parts)),
                tokens=sum(part.tokens for part in self.parts),
                micro_usd=round(sum(part.micro_usd for part in self.parts) + self.wasted_micro_usd),
            ),
            queue_ms=self.waited_ms + sum(part.queue_ms for part in self.parts),
            score_ms=sum(part.compute_ms for part in self.parts),
            # Who answers in several parts has its model here, where it does not change in between.
            revision=self.parts[-1].revision if self.parts else "",
        )


def reason_of(error: type[RerankerError] | None) -> DegradationReason:
    """What an error means for the answer; None stands for time that ran out."""
    if error is None:
        return DegradationReason.BUDGET_EXHAUSTED
    return next(reason for kind, reason in _REASONS if issubclass(error, kind))


def error_of(reason: DegradationReason) -> type[RerankerError] | None:
    """What a degradation means to whoever asked for the scores elsewhere; None stands for time that ran out."""
    return _ERRORS[reason]


def as_scored(prefix: ScoredPrefix, count: int) -> Scored:
    """The prefix as the answer to a call about ``count`` candidates: those behind it are unscored."""
    missing = range(len(prefix.scores), count)
    why = prefix.degradation
    return Scored(
        scores=prefix.scores + (0.0,) * len(missing),
        tokens=prefix.usage.tokens,
        cached=prefix.usage.cached_pairs,
        queue_ms=prefix.queue_ms,
        compute_ms=prefix.score_ms,
        micro_usd=prefix.usage.micro_usd,
        unscored=prefix.unscored.union(missing),
        shortfall="" if why is None else why.detail,
        shortfall_error=None if why is None else error_of(why.reason),
        revision=prefix.revision,
    )
