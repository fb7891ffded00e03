"""What is sent and when: seeded Poisson arrivals, and requests that never repeat a query."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from millirank import Document

from sidecar.calibrate import stdlib

CANDIDATES = 50
BUDGETS_MS = (50.0, 100.0, 200.0)
# A shorter docstring is a line or two; a candidate is usually a passage.
_SHORTEST_TEXT = 300


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_s`` requests a second, on average, for ``seconds``."""

    per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it is due, in seconds after the beginning, and what it may take."""

    at_s: float
    budget_ms: float
    query: str
    documents: Sequence[Document]


class Traffic:
    """Requests over the standard library's documentation: each has a query of its own and `CANDIDATES` passages."""

    def __init__(self) -> None:
        passages = [one for one in stdlib.documents(progress=False) if len(one.text) >= _SHORTEST_TEXT]
        self._passages = tuple(Document(id=one.id, text=one.text) for one in passages)
        self._queries = tuple(one.text for one in stdlib.questions())
        self._number = 0

    def arrivals(self, rates: Sequence[Rate], seed: int, budgets_ms: Sequence[float] = BUDGETS_MS) -> list[Arrival]:
        """One rate after the other; the same seed gives the same moments, budgets and candidates."""
        source = random.Random(seed)
        return [self._arrival(at_s, source, budgets_ms) for at_s in moments(rates, source)]

    def _arrival(self, at_s: float, source: random.Random, budgets_ms: Sequence[float]) -> Arrival:
        self._number += 1
        # A number makes every query new, so that nothing that is kept for one can help another.
        query = f"{source.choice(self._queries)} ({self._number})"
        chosen = source.sample(self._passages, CANDIDATES)
        documents = [
            Document(id=one.id, text=one.text, signals={"bm25": 20.0 - 0.1 * rank}) for rank, one in enumerate(chosen)
        ]
        return Arrival(at_s, source.choice(budgets_ms), query, documents)


def moments(rates: Sequence[Rate], source: random.Random) -> Iterator[float]:
    """Seconds from the beginning at which a Poisson process of these rates has its events."""
    begin = 0.0
    for rate in rates:
        at = begin + source.expovariate(rate.per_s)
        while at < begin + rate.seconds:
            yield at
            at += source.expovariate(rate.per_s)
        begin += rate.seconds
