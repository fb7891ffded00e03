"""The worker processes of one model, and the queue of those who want to use them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from router.arms import Availability, State
from sidecar.engines.manifest import ModelError
from sidecar.rerankers.base import BackendError, NotReadyError
from sidecar.scheduler import Scheduler, Scheduling, Turn
from sidecar.worker_messages import Load, Ready, ScoreTogether, Task
from sidecar.worker_process import Answer, Patience, WorkerProcess

ResultT = TypeVar("ResultT")
_BEST_FIRST = (State.READY, State.WARMING, State.OFF)


class WorkerPool:
    """``count`` children that run the same model; each takes one call at a time, `scheduler` says whose.

    The other arguments are those of `WorkerProcess`.
    """

    def __init__(
        self,
        name: str,
        load: Load | ModelError,
        patience: Patience,
        scheduling: Scheduling,
        *,
        on_ready: Callable[[Ready], None],
        on_result: Callable[[object], None],
        count: int = 1,
    ) -> None:
        self._name = name
        self.processes = tuple(
            WorkerProcess(
                name,
                load,
                patience,
                on_ready=on_ready,
                on_result=functools.partial(_each, on_result),
                on_free=self._look,
                on_down=self._one_is_down,
            )
            for _ in range(count)
        )
        self.scheduler = Scheduler(self.processes, scheduling)

    @property
    def pid(self) -> int | None:
        """The first child's process id; None while there is no child."""
        return self.processes[0].pid

    def availability(self) -> Availability:
        """READY when one child is; otherwise the state of the one that is nearest to it."""
        states = [process.availability() for process in self.processes]
        return min(states, key=lambda availability: _BEST_FIRST.index(availability.state))

    def check_ready(self) -> None:
        """Raises NotReadyError, with the reason, when no child can take calls."""
        availability = self.availability()
        if availability.state is not State.READY:
            raise NotReadyError(f"{self._name}: {availability.detail}")

    def start(self) -> None:
        """Starts the children in the background."""
        for process in self.processes:
            process.start()

    async def call(self, task: Task[ResultT], turn: Turn) -> Answer[ResultT]:
        """One call of the turn's child, until the end of the turn's claim; see `WorkerProcess.call`."""
        (process,) = (process for process in self.processes if process is turn.worker)
        end = turn.place.claim.end
        timeout_s = None if end == float("inf") else end - asyncio.get_running_loop().time()
        if turn.share is None:
            return await process.call(task, timeout_s)
        answer = await turn.share.hand_in(task, timeout_s, functools.partial(self._together, process))
        return cast("Answer[ResultT]", answer)

    async def _together(self, process: WorkerProcess, tasks: Sequence[object]) -> list[object]:
        """One call for several requests, until the last of them is done: an answer for each, or what it failed with."""
        answer = await process.call(ScoreTogether(cast("tuple[Task[object], ...]", tuple(tasks))), None)
        return [
            BackendError(f"{self._name}: {result}") if isinstance(result, str) else Answer(result, answer.compute_ms)
            for result in answer.result
        ]

    async def quiet(self, seconds: float) -> None:
        """Returns once the first child is ready and has had nothing to do for ``seconds``."""
        await self.processes[0].quiet(seconds)

    async def close(self) -> None:
        """Ends the children. Idempotent."""
        await asyncio.gather(*(process.close() for process in self.processes))

    def _look(self) -> None:
        self.scheduler.look()

    def _one_is_down(self, error: Exception) -> None:
        if self.availability().state is not State.READY:
            self.scheduler.fail(error)


def _each(on_result: Callable[[object], None], result: object) -> None:
    """Those of a shared call are told one by one."""
    for part in result if isinstance(result, tuple) else (result,):
        on_result(part)
