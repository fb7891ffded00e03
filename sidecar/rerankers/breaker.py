"""When to leave a failing backend alone: a circuit breaker.

Pure: no clock of its own, every method takes ``now`` in seconds of a monotonic clock. Not thread-safe; it
lives on the event loop.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When the circuit opens and how long it stays open.

    It opens after ``consecutive_failures`` in a row, or when more than ``failure_share`` of the last
    ``window`` calls failed (only once there were ``window`` calls). It stays open for ``first_pause_s``
    seconds; each probe that fails doubles the pause, up to ``longest_pause_s``.
    """

    consecutive_failures: int = 5
    window: int = 20
    failure_share: float = 0.5
    first_pause_s: float = 10.0
    longest_pause_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. Hand it back with `succeeded`, `failed` or `withdrawn`, exactly once.

    ``epoch`` tells which state of the breaker gave it: a call that began before the circuit opened says
    nothing about the backend after it, so that a hundred calls that time out together count as one opening,
    not as twenty.
    """

    epoch: int


class Breaker:
    """Closed: every call passes. Open: none. After the pause: one probe at a time closes or re-opens it."""

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self._rules = rules or BreakerRules()
        self._epoch = 0
        self._failures_in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=self._rules.window)  # True = failed
        self._pause_s = self._rules.first_pause_s
        self._open_until: float | None = None
        self._probing = False
        self._cause = ""

    def blocked(self, now: float) -> str:
        """Why a call would not be let through now, in words; empty if it would be (also as a probe)."""
        if self._probing:
            return f"{self._cause}; a probe is under way"
        if self._open_until is not None and now < self._open_until:
            return f"{self._cause}; next probe in {self._open_until - now:.1f} s"
        return ""

    def admit(self, now: float) -> Permit | None:
        """Leave for one call, or None while the circuit is open or its probe is under way."""
        if self.blocked(now):
            return None
        if self._open_until is not None:
            self._epoch += 1
            self._probing = True
        return Permit(self._epoch)

    def succeeded(self, permit: Permit) -> None:
        """The call was answered usefully. A probe's success closes the circuit and forgets the past."""
        if permit.epoch != self._epoch:
            return
        if self._probing:
            self._close()
            return
        self._failures_in_a_row = 0
        self._recent.append(False)

    def failed(self, permit: Permit, now: float) -> None:
        """The call failed. A probe's failure opens the circuit again, for twice as long."""
        if permit.epoch != self._epoch:
            return
        if self._probing:
            self._pause_s = min(2 * self._pause_s, self._rules.longest_pause_s)
            self._open(now, self._cause)
            return
        self._failures_in_a_row += 1
        self._recent.append(True)
        failures = sum(self._recent)
        full = len(self._recent) == self._rules.window
        if self._failures_in_a_row >= self._rules.consecutive_failures:
            self._open(now, f"{self._failures_in_a_row} failures in a row")
        elif full and failures > self._rules.failure_share * self._rules.window:
            self._open(now, f"{failures} failures in the last {self._rules.window} calls")

    def withdrawn(self, permit: Permit) -> None:
        """The call ended without a verdict (cancelled). If it was the probe, the next call is."""
        if permit.epoch == self._epoch and self._probing:
            self._epoch += 1
            self._probing = False

    def _open(self, now: float, cause: str) -> None:
        self._epoch += 1
        self._probing = False
        self._open_until = now + self._pause_s
        self._cause = cause

    def _close(self) -> None:
        self._epoch += 1
        self._probing = False
        self._open_until = None
        self._pause_s = self._rules.first_pause_s
        self._failures_in_a_row = 0
        self._recent.clear()
        self._cause = ""
