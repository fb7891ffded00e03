"""How busy the process is, as one number to scale on: the busy share of whatever is nearest to its limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from sidecar.scheduler import Scheduler

INTERVAL_S = 2.0
_HALF_LIFE_S = 20.0


class Utilisation:
    """The event loop and every local model, each with its busy share; `current` is the largest of them.

    A model's share is the time that its workers computed over the time that they could have; the event loop's is the
    CPU time of its thread. Work behind answers (documents encoded while idle, shadow evaluation) counts: it is real,
    and it ends when there are requests.
    """

    def __init__(
        self,
        schedulers: Sequence[Scheduler],
        loop_cpu_s: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``loop_cpu_s`` is asked on the event loop's own thread."""
        self.current = 0.0
        self._schedulers = schedulers
        self._loop_cpu_s = loop_cpu_s
        self._clock = clock
        self._looked = clock()
        self._busy_s = self._so_far_s()
        self._shares = [0.0] * len(self._busy_s)

    def look(self) -> None:
        """Bring `current` up to date: exponentially weighted, half of it from the last 20 s."""
        now, busy_s = self._clock(), self._so_far_s()
        passed_s = now - self._looked
        if passed_s <= 0.0:
            return
        fade = math.exp2(-passed_s / _HALF_LIFE_S)
        for place, (before, after) in enumerate(zip(self._busy_s, busy_s, strict=True)):
            share = min(1.0, max(0.0, after - before) / passed_s)
            self._shares[place] += (share - self._shares[place]) * (1.0 - fade)
        self._looked, self._busy_s = now, busy_s
        self.current = max(self._shares)

    async def watch(self) -> None:
        """`look` every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.look()

    def _so_far_s(self) -> list[float]:
        """Busy seconds since the start: of the loop, then of the mean worker of each model."""
        return [self._loop_cpu_s(), *(each.computed_ms / 1e3 / max(1, each.workers) for each in self._schedulers)]
