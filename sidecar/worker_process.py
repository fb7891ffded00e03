"""A model in a child process, as its parent sees it: start, call, restart, close. It never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from router.arms import Availability, State
from sidecar.engines.manifest import ModelError
from sidecar.rerankers.base import BackendError, NotReadyError
from sidecar.worker_messages import (
    HEADER,
    Broken,
    Call,
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


@dataclass(frozen=True, slots=True)
class Answer(Generic[ResultT]):
    """A task's result; ``compute_ms`` is what it took in the child."""

    result: ResultT
    compute_ms: float


class _LoadFailed(Exception):
    """The child says that the model cannot be loaded."""


class WorkerProcess:
    """One child, one task at a time; `sidecar.scheduler` says whose.

    ``on_ready`` is called with every new child's warm-up samples, ``on_result`` with every task's result, also when its
    caller has given up: what a task did to the child's state must not get lost. ``on_free`` is called when the child
    can take a call, ``on_down`` when it no longer can, with the reason. A ModelError instead of a `Load` is a model
    that is off from the beginning.
    """

    def __init__(
        self,
        name: str,
        load: Load | ModelError,
        patience: Patience = Patience(),
        *,
        on_ready: Callable[[Ready], None],
        on_result: Callable[[object], None],
        on_free: Callable[[], None],
        on_down: Callable[[Exception], None],
    ) -> None:
        self._name = name
        self._load = load
        self._patience = patience
        self._on_ready = on_ready
        self._on_result = on_result
        self._on_free = on_free
        self._on_down = on_down
        self._availability = (
            Availability(State.WARMING, "not started yet")
            if isinstance(load, Load)
            else Availability(State.OFF, str(load))
        )
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._kill_reason = ""
        self._closing = asyncio.Event()
        self._ids = itertools.count(1)
        self._running: tuple[int, asyncio.Future[Answer[Any]]] | None = None
        self.computed_ms = 0.0
        """What all children have computed so far."""
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

    @property
    def idle(self) -> bool:
        """Whether it can take a call now."""
        return self._running is None and self._availability.state is State.READY

    async def call(self, task: Task[ResultT], timeout_s: float | None) -> Answer[ResultT]:
        """Runs a task and returns its result; only when `idle`.

        ``timeout_s`` None waits as long as it takes. Raises TimeoutError (the child goes on and is not idle until it
        has ended, its late answer is dropped), NotReadyError when the model cannot take calls, BackendError when the
        task failed or the child died over it. A cancelled caller is free at once.
        """
        if self._availability.state is not State.READY:
            raise NotReadyError(f"{self._name}: {self._availability.detail}")
        if self._running is not None:
            raise RuntimeError(f"{self._name}: one call at a time; wait for a turn")
        if timeout_s is not None and timeout_s <= 0:
            raise TimeoutError
        answer: asyncio.Future[Answer[Any]] = asyncio.get_running_loop().create_future()
        self._running = next(self._ids), answer
        self._idle.clear()
        self._watch(self._patience.call_s, "answering")
        self._send(Call(self._running[0], task))
        async with asyncio.timeout(timeout_s):
            return cast("Answer[ResultT]", await answer)

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
        self._drop(NotReadyError(f"{self._name}: closed"))
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
                # Ctrl-C in a terminal is for the parent alone. (A Ray replica's uvloop does not know process_group.)
                start_new_session=True,
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
            self._drop(BackendError(f"{self._name}: the model process {reason}"))
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
            self._is_free()

    def _send(self, message: Request) -> None:
        # No drain: there is one request at a time, and its answer is awaited before the next is written.
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(pack(message))

    def _finish(self, message: Done | Broken) -> None:
        self._stop_watching()
        if isinstance(message, Done):
            self.computed_ms += message.compute_ms
            self._on_result(message.result)
        if self._running is None or self._running[0] != message.id:
            return  # it was dropped
        _, answer = self._running
        self._running = None
        if not answer.done():  # otherwise its caller has given up
            if isinstance(message, Done):
                answer.set_result(Answer(message.result, message.compute_ms))
            else:
                answer.set_exception(BackendError(f"{self._name}: {message.reason}"))
        self._is_free()

    def _is_free(self) -> None:
        self._idle_since = asyncio.get_running_loop().time()
        self._idle.set()
        self._on_free()

    def _drop(self, error: Exception) -> None:
        """Nobody waits for a child that is gone."""
        if self._running is not None and not self._running[1].done():
            self._running[1].set_exception(error)
        self._running = None
        self._on_down(error)

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
