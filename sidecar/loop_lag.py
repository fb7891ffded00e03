"""How late the event loop is: what every request waits for beside its own work."""

from __future__ import annotations

import asyncio

from opentelemetry.metrics import Histogram

INTERVAL_S = 0.01


async def watch(histogram: Histogram) -> None:
    """Until cancelled: asks to be woken every `INTERVAL_S` and records how much later, in milliseconds, that was."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        histogram.record(max(0.0, loop.time() - due) * 1e3)
