"""A real worker process with the embedded token encoder, for tests of what it does and how it ends."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest_asyncio

from router.admission import Claim, Level
from router.arms import Availability, State
from sidecar.engines.manifest import ModelError, read_manifest
from sidecar.engines.specs import OnnxSpec
from sidecar.scheduler import Scheduling
from sidecar.worker_messages import Load, ScoreLate, Task
from sidecar.worker_pool import WorkerPool
from sidecar.worker_process import Answer, Patience
from tests.rerankers.local_models import MINILM, until

SHORT = ScoreLate("a query", ((b"short", "a short text"),))
# A loaded machine makes a call of some hundred milliseconds take seconds: only the tests of the limit run into it.
PATIENT = Patience(call_s=60.0)
IMPATIENT = Patience(call_s=1.5, first_pause_s=0.05)


class Worker:
    """A pool of one child, as a caller uses it that waits for a turn of its own."""

    def __init__(self, loaded: Load | ModelError, patience: Patience, count: int = 1) -> None:
        self.pool = WorkerPool(
            "test-model",
            loaded,
            patience,
            Scheduling(),
            on_ready=lambda ready: None,
            on_result=lambda result: None,
            count=count,
        )

    @property
    def pid(self) -> int | None:
        return self.pool.pid

    def availability(self) -> Availability:
        return self.pool.availability()

    def queue_ms(self) -> float:
        """How long one with the latest deadline would wait."""
        return self.pool.scheduler.queue_ms(math.inf)

    async def call(self, task: Task[T], timeout_s: float | None, estimate_ms: float) -> Answer[T]:
        """``timeout_s`` None: ahead of time, when nobody else waits."""
        self.pool.check_ready()
        now = asyncio.get_running_loop().time()
        level, end = (Level.IDLE, math.inf) if timeout_s is None else (Level.MANDATORY, now + timeout_s)
        claim = Claim(level, end, estimate_ms / 1e3, arrived=now)
        with (
            self.pool.scheduler.squeeze_in(claim) as place,
            await place.next_turn(level, estimate_ms / 1e3) as turn,
        ):
            turn.expected_s = estimate_ms / 1e3
            return await self.pool.call(task, turn)

    async def close(self) -> None:
        await self.pool.close()


T = TypeVar("T")
Start = Callable[..., Awaitable[Worker]]


def load(folder: Path = MINILM) -> Load:
    """The embedded token encoder, one thread."""
    manifest = read_manifest(folder)
    spec = OnnxSpec(manifest, manifest.truncation, token_budget=1)
    return Load(spec, threads=1, niceness=0, vector_bytes=1 << 20)


def busy(number: int = 0, texts: int = 8) -> ScoreLate:
    """A task that keeps the child busy for some hundred milliseconds; every number is another one."""
    many = tuple((f"{number}-{i}".encode(), f"{number} {i} " + "busy " * 150) for i in range(texts))
    return ScoreLate("a query", many)


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Starts worker processes and waits until they have loaded or failed; closes them afterwards."""
    started: list[Worker] = []

    async def begin(loaded: Load | ModelError, patience: Patience = PATIENT, count: int = 1) -> Worker:
        worker = Worker(loaded, patience, count)
        started.append(worker)
        worker.pool.start()
        await until(lambda: worker.availability().state is not State.WARMING)
        return worker

    yield begin
    for worker in started:
        await worker.close()


async def ready_again(worker: Worker, than: int | None) -> None:
    """Waits for a new child."""
    await until(lambda: worker.availability().state is State.READY and worker.pid != than)


def alive(pid: int) -> bool:
    """Whether a process exists, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
