"""An event loop on which waiting takes no time: seconds pass when nobody has anything else to do, or when told to."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` begins at 0. For coroutines that wait for timers and for each other, not for sockets or threads."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Skips(self))

    def time(self) -> float:
        return self.now


class _Skips(selectors.DefaultSelector):
    """Instead of waiting until the next timer is due it makes it due."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody: no timer is left that could end it")
        self._loop.now += timeout
        return []


def run(main: Callable[[VirtualLoop], Awaitable[T]]) -> T:
    """What ``main`` comes to on a loop of its own, which it is given."""

    async def on_loop() -> T:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError("not on a virtual loop")
        return await main(loop)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(on_loop())
