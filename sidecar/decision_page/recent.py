"""The last decisions, with what was predicted and what came of it: numbers and configured names only."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from opentelemetry.trace import Span, format_trace_id

from sidecar.messages import Answer, CacheStatus, Explanation, Outcome, Timing
from sidecar.metrics import is_late

KEPT = 200


@dataclass(frozen=True, slots=True)
class Decided:
    """One answer, without its order and without the caller's own ids: those are the caller's words.

    ``at`` is in seconds since 1970; ``trace_id`` is '' where nobody traces.
    """

    number: int
    at: float
    trace_id: str
    explanation: Explanation
    timing: Timing
    cache: CacheStatus
    scored_k: int
    completeness: str
    degradation: str
    micro_usd: int


class RecentDecisions:
    """The last `KEPT` of them, and counts of all since the start. Called on the event loop only."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._kept: deque[Decided] = deque(maxlen=KEPT)
        self.since = wall_clock()
        self.answered = 0
        self.late = 0
        self.by_arm: Counter[str] = Counter()
        self.by_degradation: Counter[str] = Counter()

    def add(self, span: Span, answer: Answer) -> None:
        """Keep one. Takes microseconds: an answer is on its way."""
        explanation, outcome, timing = answer.explanation, answer.outcome, answer.timing
        context = span.get_span_context()
        self.answered += 1
        self.late += is_late(timing.total_ms, explanation.spendable_ms)
        self.by_arm[explanation.decision.reranker or explanation.decision.strategy.value] += 1
        degradation = _degradation(outcome)
        if degradation:
            self.by_degradation[degradation] += 1
        self._kept.append(
            Decided(
                number=self.answered,
                at=self._wall_clock(),
                trace_id=format_trace_id(context.trace_id) if context.is_valid else "",
                explanation=explanation,
                timing=timing,
                cache=answer.cache,
                scored_k=outcome.scored_k,
                completeness=outcome.completeness.value,
                degradation=degradation,
                micro_usd=outcome.usage.micro_usd,
            )
        )

    def after(self, number: int) -> Iterator[Decided]:
        """Those that are still kept and came later than number ``number``, oldest first."""
        return (each for each in self._kept if each.number > number)

    def get(self, number: int) -> Decided | None:
        """One of those that are still kept."""
        return next((each for each in self._kept if each.number == number), None)


def _degradation(outcome: Outcome) -> str:
    return outcome.degradations[0].reason.value if outcome.degradations else ""
