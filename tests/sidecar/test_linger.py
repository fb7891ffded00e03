"""How long a sidecar that is told to end goes on reading calls."""

from __future__ import annotations

import asyncio
import time

from sidecar.linger import linger

FAR_S = 60.0


async def test_a_loop_that_keeps_up_lingers_as_long_as_it_was_told() -> None:
    """Not less, and nowhere near the longest time; the time is returned."""
    began = time.monotonic()
    lingered_s = await linger(0.2, FAR_S)
    assert 0.2 <= lingered_s <= time.monotonic() - began < FAR_S / 2


async def test_after_a_pause_of_the_loop_the_time_begins_anew() -> None:
    """The loop stands still for 0.3 s, from shortly before the end: 0.2 s more are left for what came meanwhile."""
    ended: list[float] = []

    def stand_still() -> None:
        time.sleep(0.3)
        ended.append(time.monotonic())

    asyncio.get_running_loop().call_later(0.19, stand_still)
    await linger(0.2, FAR_S)
    assert time.monotonic() - ended[0] >= 0.2


async def test_a_loop_that_is_held_up_all_the_time_ends_all_the_same() -> None:
    """Every step is 0.2 s late; it ends with the first one that is over when the longest time is."""
    pauses = 0

    async def hold_up() -> None:
        nonlocal pauses
        while True:
            time.sleep(0.2)
            pauses += 1
            await asyncio.sleep(0)

    holding = asyncio.create_task(hold_up())
    lingered_s = await linger(0.1, 0.7)
    holding.cancel()
    assert lingered_s >= 0.7
    assert pauses <= 6  # the fourth ends it; where the machine is slow, each of them takes longer, and fewer do


async def test_who_wants_no_lingering_gets_none() -> None:
    """``linger_s`` 0 sleeps not at all, whatever the loop does."""
    assert await linger(0.0, FAR_S) == 0.0
