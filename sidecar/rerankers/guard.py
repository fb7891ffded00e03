"""Calls of a backend that is somebody else's: a limit in time, a breaker before it, and what the breaker is told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from router.arms import Availability, State
from sidecar.rerankers.base import CircuitOpenError, RerankerError
from sidecar.rerankers.breaker import Breaker, BreakerRules, Permit

_USUAL_WEIGHT = 0.1  # of the newest call in the moving mean: about the last ten count


@dataclass(slots=True)
class GuardedCall:
    """One call. ``limit_s`` is what it may take; ``elapsed_s`` what it took, once it has ended well.

    ``typical`` False: it says nothing about how long the backend usually takes.
    """

    limit_s: float
    elapsed_s: float = 0.0
    typical: bool = True


class Guard:
    """One backend's. ``timeout_s`` is the longest that any call may take; ``clock`` gives monotonic seconds."""

    def __init__(
        self, name: str, timeout_s: float, clock: Callable[[], float], rules: BreakerRules | None = None
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._clock = clock
        self._breaker = Breaker(rules)
        self._usual_s = 0.0  # moving mean of calls that succeeded

    def availability(self, off: str, warming: str) -> Availability:
        """OFF or WARMING for the reason given, CIRCUIT_OPEN, else READY.

        READY also when the next call would be the probe of a circuit that has been open: only a call can close it.
        """
        if off:
            return Availability(State.OFF, off)
        if warming:
            return Availability(State.WARMING, warming)
        blocked = self._breaker.blocked(self._clock())
        return Availability(State.CIRCUIT_OPEN, blocked) if blocked else Availability(State.READY)

    @contextlib.asynccontextmanager
    async def call(self, timeout_s: float) -> AsyncIterator[GuardedCall]:
        """Around one call, whose body keeps ``limit_s`` itself and raises TimeoutError or a RerankerError.

        Raises TimeoutError in words when it took too long, or no time was left to begin with; CircuitOpenError.
        Cancelling says nothing about the backend.
        """
        call = GuardedCall(limit_s=min(timeout_s, self._timeout_s))
        if call.limit_s <= 0:
            raise TimeoutError(f"{self._name}: no time left to call the backend")
        started = self._clock()
        permit = self._breaker.admit(started)
        if permit is None:
            raise CircuitOpenError(self._breaker.blocked(started))
        try:
            yield call
        except TimeoutError:
            self._timed_out(permit, call.limit_s)
            raise TimeoutError(f"{self._name}: no answer within {1000 * call.limit_s:.0f} ms") from None
        except RerankerError:
            self._breaker.failed(permit, self._clock())
            raise
        except BaseException:
            self._breaker.withdrawn(permit)
            raise
        call.elapsed_s = self._clock() - started
        self._breaker.succeeded(permit)
        if call.typical:
            self._usual_s += (call.elapsed_s - self._usual_s) * (_USUAL_WEIGHT if self._usual_s else 1.0)

    def _timed_out(self, permit: Permit, waited_s: float) -> None:
        """Count a timeout as a failure, unless the caller granted less than the backend usually takes.

        Otherwise one caller with a tiny budget would open the circuit for everybody.
        """
        if waited_s >= self._usual_s:
            self._breaker.failed(permit, self._clock())
        else:
            self._breaker.withdrawn(permit)
