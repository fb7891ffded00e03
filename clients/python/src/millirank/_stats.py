"""Counters of one client."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from millirank._ranking import Outcome, Ranking, Reason


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of what a client has answered since it was made.

    ``calls`` = ``ranked`` + ``partial`` + ``first_stage`` + ``raised`` + those still running; a rerank that
    ends by an exception (a strict one, a cancelled one, the caller's mistake found by the sidecar) counts as
    ``raised``. ``fallbacks`` counts, by reason, the orderings that this client made itself. ``late`` counts
    answers that came after their budget and were dropped, as far as they came within the slack.
    """

    calls: int
    ranked: int
    partial: int
    first_stage: int
    raised: int
    fallbacks: Mapping[Reason, int]
    late: int


class StatsRecorder:
    """The counters themselves. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._raised = 0
        self._late = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._fallbacks: Counter[Reason] = Counter()

    def started(self) -> None:
        """A call passed the argument checks."""
        with self._lock:
            self._calls += 1

    def answered(self, ranking: Ranking[Any]) -> None:
        """A call returned an ordering."""
        with self._lock:
            self._outcomes[ranking.outcome] += 1
            if ranking.fallback:
                self._fallbacks.update(ranking.reasons)

    def raised(self) -> None:
        """A call ended by an exception."""
        with self._lock:
            self._raised += 1

    def late(self) -> None:
        """An answer came after its caller had been answered."""
        with self._lock:
            self._late += 1

    def snapshot(self) -> Stats:
        """All counters at one moment."""
        with self._lock:
            return Stats(
                calls=self._calls,
                ranked=self._outcomes[Outcome.RANKED],
                partial=self._outcomes[Outcome.PARTIAL],
                first_stage=self._outcomes[Outcome.FIRST_STAGE],
                raised=self._raised,
                fallbacks=MappingProxyType(dict(self._fallbacks)),
                late=self._late,
            )
