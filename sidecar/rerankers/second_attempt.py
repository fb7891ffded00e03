"""A second attempt at a call, only where it provably fits: DESIGN section 6, invariant 7.

It is made when the first did not reach its server, or has taken longer than usual (a hedge: Dean and Barroso, The Tail
at Scale, 2013). Either way what is left of the time must be what such a call usually takes, and hedges must be rare:
at overload every call is late, and twice as many calls would make it worse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from sidecar.rerankers.base import BackendError

T = TypeVar("T")

# One hedge for so many calls, and no more than so many saved up.
_CALLS_PER_HEDGE = 20
_MOST_SAVED = 3.0


class UnreachableError(BackendError):
    """Nobody took the call: nothing was computed for it, so that it may be made again."""


class SecondAttempts:
    """Of one backend. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._saved = 0.0

    async def run(self, ask: Callable[[float], Coroutine[None, None, T]], limit_s: float, usual_s: float) -> T:
        """The first good answer. ``ask`` is given the seconds that it may take; ``usual_s`` is what it takes in 19 of
        20 cases. Raises what the first attempt does, or the second where the first was not answered.
        """
        self._saved = min(_MOST_SAVED, self._saved + 1.0 / _CALLS_PER_HEDGE)
        end = self._clock() + limit_s
        pending = {asyncio.create_task(ask(limit_s))}
        another = True
        # A hedge that would not fit any more by the time that the first is late is not waited for.
        late_s = usual_s if limit_s >= 2 * usual_s else None
        try:
            while True:
                done, pending = await asyncio.wait(pending, timeout=late_s, return_when=asyncio.FIRST_COMPLETED)
                late_s = None
                good = [task for task in done if task.exception() is None]
                if good:
                    return good[0].result()
                left_s = end - self._clock()
                if another and left_s >= usual_s and self._worthwhile(done):
                    another = False
                    pending = {*pending, asyncio.create_task(ask(left_s))}
                elif not pending:
                    return next(iter(done)).result()  # raises
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _worthwhile(self, failed: set[asyncio.Task[T]]) -> bool:
        """Of the first attempt, which has failed or, where ``failed`` is empty, is late."""
        if failed:
            return all(isinstance(task.exception(), UnreachableError) for task in failed)
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
