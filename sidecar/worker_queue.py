"""The calls of one worker process: one under way, the others waiting, earliest deadline first."""

from __future__ import annotations

import asyncio
import itertools
from bisect import insort
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sidecar.worker_messages import Broken, Call, Done, Task

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Answer(Generic[ResultT]):
    """A task's result; ``queue_ms`` is how long it waited for its turn, ``compute_ms`` what it took in the child."""

    result: ResultT
    queue_ms: float
    compute_ms: float


@dataclass(slots=True, eq=False)
class Pending:
    """A call from the moment it is made until it is answered. Times are seconds on the loop's clock."""

    task: Task[Any]
    deadline: float
    estimate_s: float
    asked_at: float
    answer: asyncio.Future[Answer[Any]]
    sent_at: float = 0.0


class CallQueue:
    """Who is next, and how long that takes. Knows no process and no clock: time is an argument."""

    def __init__(self) -> None:
        self._waiting: list[Pending] = []
        self._running: tuple[int, Pending] | None = None
        self._ids = itertools.count(1)

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._running is not None

    def join(self, pending: Pending) -> None:
        """Waits for its turn."""
        insort(self._waiting, pending, key=lambda other: other.deadline)

    def leave(self, pending: Pending) -> None:
        """Waits no longer. A call that is under way stays: the child cannot be interrupted."""
        if pending in self._waiting:
            self._waiting.remove(pending)

    def begin_next(self, now: float) -> Call | None:
        """The waiting call with the earliest deadline, now under way; None when there is none, or one is under way."""
        while self._running is None and self._waiting:
            pending = self._waiting.pop(0)
            if pending.answer.done() or pending.deadline <= now:
                continue  # its caller is leaving
            pending.sent_at = now
            self._running = next(self._ids), pending
            return Call(self._running[0], pending.task)
        return None

    def end(self, message: Done | Broken, name: str, error: type[Exception]) -> None:
        """Answers the call under way; ``error`` is raised in its caller when the task failed."""
        if self._running is None or self._running[0] != message.id:
            return  # it was dropped
        _, pending = self._running
        self._running = None
        if pending.answer.done():
            return  # its caller has given up
        if isinstance(message, Done):
            queue_ms = (pending.sent_at - pending.asked_at) * 1e3
            pending.answer.set_result(Answer(message.result, queue_ms, message.compute_ms))
        else:
            pending.answer.set_exception(error(f"{name}: {message.reason}"))

    def drop(self, error: Exception) -> None:
        """Fails every call: nobody waits for a child that is gone."""
        calls = [*self._waiting, *([self._running[1]] if self._running else [])]
        self._waiting.clear()
        self._running = None
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(error)

    def wait_ms(self, now: float) -> float:
        """How long a call made now would wait: the rest of the call under way, and the waiting calls' estimates.

        A call that is late by x is expected to need x more, so that a hung child looks busier by the second. Calls
        with an earlier deadline than a waiting one overtake it, so this is an upper bound.
        """
        seconds = sum(pending.estimate_s for pending in self._waiting if pending.deadline > now)
        if self._running is not None:
            _, running = self._running
            seconds += abs(running.sent_at + running.estimate_s - now)
        return seconds * 1e3
