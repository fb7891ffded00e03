"""How late the event loop is: what every request waits for beside its own work."""

from __future__ import annotations

import asyncio

from opentelemetry.metrics import Histogram

INTERVAL_S = 0.02
_HALF_LIFE_S = 1.0


class LoopLag:
    """Asks to be woken every `INTERVAL_S` and notes how much later that was."""

    def __init__(self) -> None:
        self.recent_ms = 0.0
        """The longest delay of late, in ms: a longer one replaces it at once, and it halves every `_HALF_LIFE_S`."""

    async def watch(self, histogram: Histogram) -> None:
        """Until cancelled, on the loop that is to be watched; every delay, in ms, goes to ``histogram`` too."""
        loop = asyncio.get_running_loop()
        fade = 0.5 ** (INTERVAL_S / _HALF_LIFE_S)
        while True:
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            late_ms = max(0.0, loop.time() - due) * 1e3
            self.recent_ms = max(late_ms, fade * self.recent_ms)
            histogram.record(late_ms)
