"""Answers leave one after the other: requests that must be answered at the same moment can't all be.

Twenty requests that come together with equal budgets end together too, and the last of twenty answers would be late by
the time that the other nineteen take. So each gets a moment of its own, as late as there is one.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right, insort
from collections.abc import Iterator


class AnswerSlots:
    """Moments, in seconds on the monotonic clock, at least ``width_s`` apart: what one answer takes the event loop."""

    def __init__(self, width_s: float) -> None:
        self._width_s = width_s
        self._taken: list[float] = []

    @contextlib.contextmanager
    def take(self, end: float, now: float) -> Iterator[float]:
        """The latest free moment up to ``end``, but not before ``now``; it is free again afterwards."""
        slot = end
        for taken in reversed(self._taken[: bisect_right(self._taken, end + self._width_s)]):
            if taken <= slot - self._width_s:
                break
            slot = min(slot, taken - self._width_s)
        slot = max(slot, now)
        insort(self._taken, slot)
        try:
            yield slot
        finally:
            del self._taken[bisect_right(self._taken, slot) - 1]
