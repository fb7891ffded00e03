"""The moment after SIGTERM in which new calls are still read."""

from __future__ import annotations

import asyncio

_STEP_S = 0.05


async def linger(linger_s: float, longest_s: float) -> float:
    """Sleeps ``linger_s`` in which the event loop is not held up, at most ``longest_s``; returns how long that was.

    Calls that came while a loop was held up (a machine that is overloaded, a throttled container) are on the wire or
    with gRPC, and nobody has seen them; a listener that closes now refuses them. So whenever the loop comes back from a
    pause, the time begins anew.
    """
    loop = asyncio.get_running_loop()
    began = now = loop.time()
    end, latest = began + linger_s, began + longest_s
    while now < min(end, latest):
        due = min(now + _STEP_S, end)
        await asyncio.sleep(due - now)
        now = loop.time()
        if now - due > _STEP_S:
            end = now + linger_s
    return now - began
