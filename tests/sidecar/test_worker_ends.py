"""Worker processes and their parent: what happens when either end dies, hangs or closes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from router.arms import State
from sidecar.rerankers.base import BackendError, NotReadyError
from sidecar.worker_process import Patience
from tests.rerankers.local_models import MINILM, until
from tests.sidecar.workers import IMPATIENT, SHORT, Start, alive, busy, load, ready_again

pytest_plugins = ("tests.sidecar.workers",)


async def test_a_killed_child_is_replaced(start: Start) -> None:
    """SIGKILL in the middle of a call: BackendError that names the signal, a new child, and answers again."""
    worker = await start(load(), IMPATIENT)
    pid = worker.pid
    assert pid is not None
    call = asyncio.create_task(worker.call(busy(), 30.0, 10.0))
    waiting = asyncio.create_task(worker.call(busy(1), 30.0, 10.0))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="SIGKILL"):
        await call
    with pytest.raises(BackendError):
        await waiting
    assert worker.availability().state is State.WARMING
    with pytest.raises(NotReadyError):
        await worker.call(SHORT, 30.0, 10.0)
    await ready_again(worker, than=pid)
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


async def test_a_frozen_child_is_killed_and_replaced(start: Start) -> None:
    """SIGSTOP: the caller gets its TimeoutError in time; after the hard limit the child is killed and replaced."""
    worker = await start(load(), IMPATIENT)
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await worker.call(SHORT, 0.2, 10.0)
    assert time.monotonic() - started < 0.4
    with pytest.raises(BackendError, match=r"took longer than 1\.5 s"):
        await worker.call(SHORT, 30.0, 10.0)
    assert time.monotonic() - started < 3.0
    await ready_again(worker, than=pid)
    assert not alive(pid)
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


async def test_too_many_deaths_switch_it_off(start: Start) -> None:
    """A child that dies again and again within a minute is OFF with the reason, not restarted for ever."""
    worker = await start(load(), Patience(first_pause_s=0.01, deaths_per_minute=2))
    first = worker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await ready_again(worker, than=first)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: worker.availability().state is State.OFF)
    assert "SIGKILL" in worker.availability().detail
    assert worker.pid is None


async def test_close_leaves_nothing_behind(start: Start) -> None:
    """After close: no process, no zombie, no descriptor, and the call under way is told."""
    descriptors = len(os.listdir("/proc/self/fd"))
    worker = await start(load())
    pid = worker.pid
    assert pid is not None
    call = asyncio.create_task(worker.call(busy(texts=2), 30.0, 10.0))
    await asyncio.sleep(0.01)
    await worker.close()
    with pytest.raises(NotReadyError, match="closed"):
        await call
    assert not alive(pid)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, within_s=2.0)


async def test_close_kills_a_frozen_child(start: Start) -> None:
    """A child that does not hear is killed after a second."""
    worker = await start(load())
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    await worker.close()
    assert time.monotonic() - started < 4.0
    assert not alive(pid)


async def test_close_during_a_pause(start: Start) -> None:
    """Closing does not wait for the pause before a restart."""
    worker = await start(load(), Patience(first_pause_s=30.0))
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: "restarting in 30 s" in worker.availability().detail)
    started = time.monotonic()
    await worker.close()
    assert time.monotonic() - started < 1.0


async def test_the_child_ignores_signals_meant_for_the_parent(start: Start) -> None:
    """Ctrl-C and a service manager's SIGTERM to the whole group do not cost the calls under way."""
    worker = await start(load())
    pid = worker.pid
    assert pid is not None
    call = asyncio.create_task(worker.call(busy(), 30.0, 10.0))
    await asyncio.sleep(0.02)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert len((await call).result.scores) == 8
    assert worker.pid == pid


PARENT = """
import asyncio, sys
from pathlib import Path
from router.arms import State, Strategy
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.loadable import RunOptions, onnx_model

async def main():
    model = onnx_model(Path(sys.argv[1]), Strategy.LATE_INTERACTION, RunOptions())
    reranker = LateInteraction("m", model)
    await reranker.start()
    while reranker.availability().state is not State.READY:
        await asyncio.sleep(0.01)
    print(reranker.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_child_follows_its_parent() -> None:
    """A parent that is killed leaves no orphan behind."""
    with subprocess.Popen([sys.executable, "-c", PARENT, str(MINILM)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(child)
        parent.kill()
    await until(lambda: not alive(child), within_s=5.0)
