"""One call of a worker for several requests that have been given their turn together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

# What a worker makes of several tasks: a result for each, or what that one failed with.
Begin: TypeAlias = Callable[[Sequence[object]], Awaitable[Sequence[object]]]


class Share:
    """One request's part of a call: it hands in its task, or leaves."""

    def __init__(self, call: _Call, tokens: int) -> None:
        self._call = call
        self.tokens = tokens
        self.task: object = None
        self.result: asyncio.Future[object] | None = None  # from the moment in which the task is handed in

    @property
    def others(self) -> int:
        """How many other requests are in the call."""
        return len(self._call.shares) - 1

    @property
    def beside_tokens(self) -> int:
        """What is computed for them."""
        return sum(share.tokens for share in self._call.shares) - self.tokens

    @property
    def leads(self) -> bool:
        """Whether this is the one of them that speaks for the call."""
        return self._call.shares[0] is self

    async def hand_in(self, task: object, timeout_s: float | None, begin: Begin) -> object:
        """The task's own result. ``begin`` makes the call, as soon as everybody has handed in or has left.

        Until then a request must wait for nothing, or the others would wait with it. As any call of a worker does, it
        goes on when nobody waits for it any more.
        Raises TimeoutError, what the call failed with, or what this task alone failed with.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise TimeoutError
        self.task, self.result = task, asyncio.get_running_loop().create_future()
        self._call.begin_if_complete(begin)
        async with asyncio.timeout(timeout_s):
            return await self.result

    def leave(self) -> None:
        """No task will come; nothing happens after one was handed in."""
        if self.result is None and self in self._call.shares:
            self._call.shares.remove(self)
            self._call.begin_if_complete()


class _Call:
    """What the shares have in common."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.shares = [Share(self, each) for each in tokens]
        self._begin: Begin | None = None
        self._running: asyncio.Task[None] | None = None

    def begin_if_complete(self, begin: Begin | None = None) -> None:
        self._begin = begin or self._begin
        if self._begin is not None and all(share.result is not None for share in self.shares):
            self._running = asyncio.create_task(self._run(self._begin), name="a call for several requests")

    async def _run(self, begin: Begin) -> None:
        results: Sequence[object]
        try:
            results = await begin([share.task for share in self.shares])
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            results = [error] * len(self.shares)
        for share, result in zip(self.shares, results, strict=True):
            if share.result is None or share.result.done():
                continue  # who waited for it has gone
            if isinstance(result, Exception):
                share.result.set_exception(result)
            else:
                share.result.set_result(result)


def shared(tokens: Sequence[int]) -> list[Share]:
    """One call for as many requests, each with so much to compute."""
    return _Call(tokens).shares.copy()
