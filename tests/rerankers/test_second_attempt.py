"""When a call is made twice: only where the second attempt provably fits into the time that is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from sidecar.rerankers.base import BackendError
from sidecar.rerankers.second_attempt import SecondAttempts, UnreachableError

USUAL_S = 0.05


class Calls:
    """Attempts as told: each waits for its seconds, then answers its number, or raises."""

    def __init__(self, *script: tuple[float, Exception | None]) -> None:
        self.script: Sequence[tuple[float, Exception | None]] = script
        self.limits: list[float] = []
        self.cancelled = 0

    async def __call__(self, limit_s: float) -> int:
        number = len(self.limits)
        self.limits.append(limit_s)
        seconds, error = self.script[number]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error is not None:
            raise error
        return number


def saved_up(calls: int = 20) -> SecondAttempts:
    """After so many calls that gave no cause for a second attempt."""
    attempts = SecondAttempts(time.monotonic)
    attempts._saved = calls / 20
    return attempts


async def test_an_answer_in_time_is_the_only_attempt() -> None:
    """Nothing is sent twice without a cause."""
    calls = Calls((0.0, None))
    assert await saved_up().run(calls, 1.0, USUAL_S) == 0
    assert calls.limits == [1.0]


async def test_who_was_not_reached_is_called_again() -> None:
    """With the time that is left, and no more."""
    calls = Calls((0.01, UnreachableError()), (0.0, None))
    assert await saved_up(0).run(calls, 1.0, USUAL_S) == 1
    assert calls.limits[1] < 0.995


async def test_there_is_no_third_attempt() -> None:
    """Two that were not reached are an error."""
    calls = Calls((0.0, UnreachableError()), (0.0, UnreachableError()))
    with pytest.raises(UnreachableError):
        await saved_up().run(calls, 1.0, USUAL_S)
    assert len(calls.limits) == 2


async def test_too_little_time_for_a_second_attempt() -> None:
    """What is left is less than such a call usually takes: the first one's error stands (invariant 7)."""
    calls = Calls((0.01, UnreachableError()))
    with pytest.raises(UnreachableError):
        await saved_up().run(calls, 0.055, USUAL_S)


async def test_a_failure_is_not_repeated() -> None:
    """Who took the call and failed may have computed it, and would fail again."""
    calls = Calls((0.0, BackendError()))
    with pytest.raises(BackendError):
        await saved_up().run(calls, 1.0, USUAL_S)
    assert len(calls.limits) == 1


async def test_a_late_call_is_hedged() -> None:
    """After what 19 of 20 calls take a second one is sent; the first answer counts, the other call is cancelled."""
    calls = Calls((5.0, None), (0.0, None))
    started = time.monotonic()
    assert await saved_up().run(calls, 1.0, USUAL_S) == 1
    assert time.monotonic() - started < 0.5
    assert calls.cancelled == 1


async def test_a_hedge_must_fit() -> None:
    """Once the first is late, a second one would not end in time: it is not sent."""
    calls = Calls((0.06, None))
    assert await saved_up().run(calls, 1.9 * USUAL_S, USUAL_S) == 0
    assert len(calls.limits) == 1


async def test_hedges_are_rare() -> None:
    """One for twenty calls: where all are late, twice as many would make it worse."""
    attempts = saved_up(0)
    sent = 0
    for _ in range(40):
        calls = Calls((0.004, None), (0.004, None))
        await attempts.run(calls, 1.0, 0.001)
        sent += len(calls.limits)
    assert 40 < sent <= 42


async def test_cancelling_cancels_every_attempt() -> None:
    """Nothing goes on for a caller who has gone (invariant 6)."""
    calls = Calls((5.0, None), (5.0, None))
    caller = asyncio.create_task(saved_up().run(calls, 10.0, 0.01))
    while len(calls.limits) < 2:
        await asyncio.sleep(0.005)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert calls.cancelled == 2
