"""A model in a child process, as its parent sees it: start, call, restart, close. It never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from router.arms import Availability, State
from sidecar.engines.manifest import ModelError
from sidecar.rerankers.base import BackendError, NotReadyError
from sidecar.worker_messages import (
    HEADER,
    Broken,
    Close,
    Done,
    Failed,
    Load,
    Loaded,
    Ready,
    Request,
    Task,
    pack,
    unpack,
)
from sidecar.worker_queue import Answer, CallQueue, Pending

ResultT = TypeVar("ResultT")
PIPE_BUFFER_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a child is waited for, in seconds, and how often it may die."""

    call_s: float = 5.0
    """A task that runs longer than this costs the child its life."""
    load_s: float = 60.0
    close_s: float = 1.0
    first_pause_s: float = 0.5
    """Pause before the first restart; it doubles up to ``longest_pause_s``, and a minute of life resets it."""
    longest_pause_s: float = 30.0
    deaths_per_minute: int = 5
    """As many deaths within a minute switch the model off."""


class _LoadFailed(Exception):
    """The child says that the model cannot be loaded."""


class WorkerProcess:
    """One child, one task in flight; waiting calls are served earliest deadline first.

    ``on_ready`` is called with every new child's warm-up samples, ``on_result`` with every task's result, also when its
    caller has given up: what a task did to the child's state must not get lost. A ModelError instead of a `Load` is a
    model that is off from the beginning.
    """

    def __init__(
        self,
        name: str,
        load: Load | ModelError,
        patience: Patience = Patience(),
        *,
        on_ready: Callable[[Ready], None],
        on_result: Callable[[object], None],
    ) -> None:
        self._name = name
        self._load = load
        self._patience = patience
        self._on_ready = on_ready
        self._on_result = on_result
        self._availability = (
            Availability(State.WARMING, "not started yet")
            if isinstance(load, Load)
            else Availability(State.OFF, str(load))
        )
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._kill_reason = ""
        self._closing = asyncio.Event()
        self._queue = CallQueue()
        self._watchdog: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle_since = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._process.pid if self._process is not None else None

    def availability(self) -> Availability:
        """READY, WARMING with what is going on, or OFF with the exact reason."""
        return self._availability

    def start(self) -> None:
        """Starts the child in the background. Only the first call does anything."""
        if isinstance(self._load, ModelError):
            self._switch_off(str(self._load))
        elif self._supervisor is None and not self._closing.is_set():
            self._supervisor = asyncio.create_task(self._supervise(self._load), name=f"worker {self._name}")

    def queue_ms(self) -> float:
        """How long a call made now would wait, at most (see `CallQueue.wait_ms`)."""
        return self._queue.wait_ms(asyncio.get_running_loop().time())

    async def call(self, task: Task[ResultT], timeout_s: float | None, estimate_ms: float) -> Answer[ResultT]:
        """Runs a task and returns its result.

        ``timeout_s`` None waits as long as it takes, behind everything that has a deadline. Raises TimeoutError
        (the child goes on, its late answer is dropped, the next call waits for it), NotReadyError when the model
        cannot take calls, BackendError when the task failed or the child died over it. A cancelled caller is free at
        once and leaves the queue.
        """
        if self._availability.state is not State.READY:
            raise NotReadyError(f"{self._name}: {self._availability.detail}")
        if timeout_s is not None and timeout_s <= 0:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = float("inf") if timeout_s is None else now + timeout_s
        pending = Pending(task, deadline, estimate_ms / 1e3, now, loop.create_future())
        self._queue.join(pending)
        self._idle.clear()
        self._send_next()
        try:
            async with asyncio.timeout(timeout_s):
                return cast("Answer[ResultT]", await pending.answer)
        finally:
            self._queue.leave(pending)

    async def quiet(self, seconds: float) -> None:
        """Returns once the child is ready and has had nothing to do for ``seconds``."""
        loop = asyncio.get_running_loop()
        while True:
            await self._idle.wait()
            left = self._idle_since + seconds - loop.time()
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def close(self) -> None:
        """Asks the child to exit, then kills it; at once if it is still loading.

        Calls under way get a NotReadyError. Idempotent; leaves no process and no descriptor behind.
        """
        was_ready = self._availability.state is State.READY
        self._closing.set()
        self._availability = Availability(State.OFF, "closed")
        self._queue.drop(NotReadyError(f"{self._name}: closed"))
        if self._supervisor is None:
            return
        if was_ready:
            self._send(Close())
        else:
            self._kill("closed")
        while True:
            done, _ = await asyncio.wait({self._supervisor}, timeout=self._patience.close_s)
            if done:
                return
            self._kill("did not exit when asked")

    async def _supervise(self, load: Load) -> None:
        loop = asyncio.get_running_loop()
        deaths: deque[float] = deque(maxlen=self._patience.deaths_per_minute)
        pause_s = self._patience.first_pause_s
        while not self._closing.is_set():
            born = loop.time()
            self._availability = Availability(State.WARMING, "starting")
            try:
                reason = await self._live(load)
            except _LoadFailed as failure:
                self._switch_off(str(failure))
                return
            except Exception as error:  # noqa: BLE001 - such as a child started from files of another version
                self._switch_off(f"the model process can't be understood: {type(error).__name__}")
                _log.exception("%s is off", self._name)
                return
            if self._closing.is_set():
                return
            now = loop.time()
            deaths.append(now)
            if len(deaths) == deaths.maxlen and now - deaths[0] < 60:
                self._switch_off(f"the model process {reason}; that was death {len(deaths)} within a minute")
                return
            if now - born > 60:
                pause_s = self._patience.first_pause_s
            self._availability = Availability(State.WARMING, f"restarting in {pause_s:g} s: the model process {reason}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_s)
            pause_s = min(2 * pause_s, self._patience.longest_pause_s)

    async def _live(self, load: Load) -> str:
        """One child from birth to death. Returns why it died; raises _LoadFailed when a new one would fail as well."""
        self._kill_reason = ""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "sidecar.worker", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=PIPE_BUFFER_BYTES,
                env=_environment(load.threads),
                process_group=0,  # Ctrl-C in a terminal is for the parent alone
            )
        except OSError as error:
            return f"could not be started: {error.strerror}"
        self._process = process
        self._watch(self._patience.load_s, "loading")
        try:
            if self._closing.is_set():
                self._kill("closed")
            self._send(load)
            await self._read(process)
        finally:
            self._process = None
            self._stop_watching()
            self._idle.clear()
            if not self._closing.is_set():
                self._availability = Availability(State.WARMING, "the model process has ended")
            reason = await self._bury(process)
            self._queue.drop(BackendError(f"{self._name}: the model process {reason}"))
        return reason

    async def _bury(self, process: asyncio.subprocess.Process) -> str:
        """Waits for the child's end, forcing it if need be, and says what it was."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._patience.close_s)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        code = process.returncode or 0
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return self._kill_reason or end

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Handles what the child says until it closes its end."""
        if process.stdout is None:
            raise RuntimeError("the child has no stdout")
        while True:
            try:
                (length,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
                message = unpack(await process.stdout.readexactly(length))
            except asyncio.IncompleteReadError:
                return
            match message:
                case Loaded():
                    if not self._closing.is_set():
                        self._availability = Availability(State.WARMING, "warming up")
                case Ready():
                    self._begin(message)
                case Failed():
                    raise _LoadFailed(message.reason)
                case Done() | Broken():
                    self._finish(message)

    def _begin(self, ready: Ready) -> None:
        self._stop_watching()
        self._on_ready(ready)
        if not self._closing.is_set():
            self._availability = Availability(State.READY)
            self._send_next()

    def _send(self, message: Request) -> None:
        # No drain: there is one request at a time, and its answer is awaited before the next is written.
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(pack(message))

    def _send_next(self) -> None:
        """Gives the child its next call if it is free, and notes when there is none."""
        now = asyncio.get_running_loop().time()
        call = self._queue.begin_next(now)
        if call is not None:
            self._watch(self._patience.call_s, "answering")
            self._send(call)
        elif not self._queue.busy:
            self._idle_since = now
            self._idle.set()

    def _finish(self, message: Done | Broken) -> None:
        self._stop_watching()
        if isinstance(message, Done):
            self._on_result(message.result)
        self._queue.end(message, self._name, BackendError)
        self._send_next()

    def _watch(self, seconds: float, doing: str) -> None:
        reason = f"was killed: {doing} took longer than {seconds:g} s"
        self._watchdog = asyncio.get_running_loop().call_later(seconds, self._kill, reason)

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _kill(self, reason: str) -> None:
        if self._process is not None and self._process.returncode is None:
            self._kill_reason = reason
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _switch_off(self, reason: str) -> None:
        if not self._closing.is_set():
            self._availability = Availability(State.OFF, reason)
            _log.warning("reranker is off", extra={"reranker": self._name, "reason": reason})


def _environment(threads: int) -> dict[str, str]:
    """The parent's environment, with every thread pool of the child's libraries bounded."""
    pools = {"RAYON_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": 1, "OMP_NUM_THREADS": 1}
    return os.environ | {name: str(count) for name, count in pools.items()}
