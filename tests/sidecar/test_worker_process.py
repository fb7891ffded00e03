"""A worker process at work: who goes first, what a call may take, and what the event loop sees of it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from router.arms import State
from sidecar.rerankers.base import BackendError
from sidecar.worker_messages import Encode, ScorePairs
from tests.rerankers.local_models import until
from tests.sidecar.workers import PATIENT, SHORT, Start, busy, load

pytest_plugins = ("tests.sidecar.workers",)


async def test_earliest_deadline_first(start: Start) -> None:
    """Waiting calls are served by deadline, not by arrival, and one without a deadline comes last."""
    worker = await start(load())
    order: list[str] = []

    async def call(name: str, timeout_s: float | None, texts: int = 1) -> None:
        await worker.call(busy(hash(name), texts), timeout_s, 10.0)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(call("first", 30.0, texts=4))
        await asyncio.sleep(0)
        for name, timeout_s in (("never", None), ("late", 29.0), ("soon", 27.0), ("middle", 28.0)):
            group.create_task(call(name, timeout_s))
    assert order == ["first", "soon", "middle", "late", "never"]


async def test_a_call_that_times_out(start: Start) -> None:
    """TimeoutError comes in time while the child goes on; its late answer is dropped, the next call gets its own."""
    worker = await start(load())
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await worker.call(busy(), 0.05, 10.0)
    assert time.monotonic() - started < 0.2
    asked = time.monotonic()
    answer = await worker.call(SHORT, 30.0, 10.0)
    assert len(answer.result.scores) == 1
    assert (time.monotonic() - asked) * 1e3 > answer.compute_ms + 10.0, "it had to wait for the call that was left"


async def test_a_cancelled_waiter_leaves_the_queue(start: Start) -> None:
    """A waiting call whose caller is cancelled is gone at once, from the queue and from the estimate of it."""
    worker = await start(load())
    running = asyncio.create_task(worker.call(busy(), 30.0, 0.0))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(worker.call(busy(1), 90.0, 60_000.0))
    await asyncio.sleep(0)
    assert worker.queue_ms() >= 60_000.0
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert worker.queue_ms() < 10_000.0
    await running


async def test_queue_estimate(start: Start) -> None:
    """Nothing to do is 0; then the rest of the call under way plus the estimates of those waiting."""
    worker = await start(load())
    assert worker.queue_ms() == 0.0
    calls = [asyncio.create_task(worker.call(busy(i, 2), 30.0, 5_000.0)) for i in range(3)]
    await asyncio.sleep(0.01)
    assert 14_500.0 < worker.queue_ms() <= 15_000.0
    await asyncio.gather(*calls)
    assert worker.queue_ms() == 0.0


async def test_a_hung_child_looks_busier_by_the_second(start: Start) -> None:
    """A call that is late by x is expected to need x more, so that nobody plans with a child that hangs."""
    worker = await start(load())
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await worker.call(SHORT, 0.1, 1.0)
    early = worker.queue_ms()
    await asyncio.sleep(0.3)
    assert worker.queue_ms() > early + 250.0


async def test_the_event_loop_goes_on(start: Start) -> None:
    """While a frame of 2 MB travels and the child computes, the loop is free for others."""
    worker = await start(load())
    texts = tuple((bytes([number]), f"{number} " + "text " * 20_000) for number in range(20))
    started = time.monotonic()
    call = asyncio.create_task(worker.call(Encode(texts), 60.0, 10.0))
    longest = 0.0
    while not call.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - before)
    await call
    assert longest < (time.monotonic() - started) / 4


async def test_a_failed_task_leaves_the_child_alive(start: Start) -> None:
    """A task that raises is a BackendError that names type and place but no text; the same child answers the next."""
    worker = await start(load())
    pid = worker.pid
    with pytest.raises(BackendError) as caught:
        await worker.call(ScorePairs("zyzzyva", ("zyzzyva",)), 30.0, 10.0)
    assert "TypeError" in str(caught.value)
    assert "zyzzyva" not in str(caught.value)
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores
    assert worker.pid == pid


async def test_two_children_compute_side_by_side(start: Start) -> None:
    """With two children two calls run at the same time; when one child dies, the other serves alone."""
    worker = await start(load(), PATIENT, count=2)
    await until(lambda: all(process.idle for process in worker.pool.processes))
    first, second = (process.pid for process in worker.pool.processes)
    assert first is not None
    assert first != second
    await asyncio.gather(worker.call(busy(1), 30.0, 10.0), worker.call(busy(2), 30.0, 10.0))
    assert all(process.computed_ms > 0 for process in worker.pool.processes)
    os.kill(first, signal.SIGKILL)
    await until(lambda: not worker.pool.processes[0].idle)
    assert worker.availability().state is State.READY
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores
