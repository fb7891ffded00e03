"""Ten thousand calls to a frozen sidecar, and timers that do nothing else in the same process at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from millirank import AsyncClient, Client, Ranking

CALLS = 10_000
CALLERS = 32
BUDGET_MS = 50.0
# Callers begin one after the other, as those of a service do: in step, each would wait for what all others do in the
# same millisecond, and so would bare timers.
_BETWEEN_CALLERS_S = BUDGET_MS / 1e3 / CALLERS
# After so many unanswered calls a client asks no more. For every call to wait for its timer, each client makes so many.
_CALLS_A_CLIENT = 64
_DOCUMENTS = [f"{position} " + "word " * 120 for position in range(10)]
_READY_S = 30.0


@dataclass
class Waits:
    """What callers waited, in ms, and what bare timers of the budget's length took meanwhile."""

    calls_ms: list[float] = field(default_factory=list)
    timers_ms: list[float] = field(default_factory=list)
    wrong: int = 0

    def note(self, ranking: Ranking[str], started: float) -> None:
        """One call is over."""
        self.calls_ms.append((time.monotonic() - started) * 1e3)
        if not ranking.fallback or ranking.documents != _DOCUMENTS:
            self.wrong += 1

    def p999_ms(self) -> tuple[float, float]:
        """The 99.9th percentile of the calls and of the bare timers."""
        return quantile(self.calls_ms, 999), quantile(self.timers_ms, 999)


def quantile(values: list[float], thousandths: int) -> float:
    """The value that so many of a thousand do not exceed."""
    return sorted(values)[(len(values) - 1) * thousandths // 1000]


def threads(target: str, freeze: Callable[[], None], calls: int = CALLS) -> Waits:
    """`calls` calls by `CALLERS` threads; ``freeze`` stops the sidecar once all clients are connected."""
    clients = [Client(target) for _ in range(-(-calls // _CALLS_A_CLIENT))]
    assert all(client.wait_until_ready(_READY_S) for client in clients)
    freeze()
    waits = Waits()
    done = threading.Event()

    def timer() -> None:
        never = threading.Event()
        while not done.is_set():
            started = time.monotonic()
            never.wait(BUDGET_MS / 1e3)
            waits.timers_ms.append((time.monotonic() - started) * 1e3)

    def call(number: int) -> None:
        started = time.monotonic()
        client = clients[number // _CALLS_A_CLIENT]
        waits.note(client.rerank("query", _DOCUMENTS, budget_ms=BUDGET_MS), started)

    numbers = iter(range(calls))
    taking = threading.Lock()

    def caller() -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            call(number)

    timers = [threading.Thread(target=timer) for _ in range(CALLERS)]
    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for pair in zip(timers, callers, strict=True):
        for each in pair:
            each.start()
        time.sleep(_BETWEEN_CALLERS_S)
    for each in callers:
        each.join()
    done.set()
    for each in timers:
        each.join()
    for client in clients:
        client.close()
    return waits


async def tasks(target: str, freeze: Callable[[], None], calls: int = CALLS) -> Waits:
    """The same by `CALLERS` tasks of one event loop."""
    clients: list[Any] = [AsyncClient(target) for _ in range(-(-calls // _CALLS_A_CLIENT))]
    assert all([await client.wait_until_ready(_READY_S) for client in clients])
    freeze()
    waits = Waits()

    async def timer(begin_s: float) -> None:
        await asyncio.sleep(begin_s)
        while True:
            started = time.monotonic()
            await asyncio.sleep(BUDGET_MS / 1e3)
            waits.timers_ms.append((time.monotonic() - started) * 1e3)

    async def caller(begin_s: float) -> None:
        await asyncio.sleep(begin_s)
        for number in numbers:
            started = time.monotonic()
            client = clients[number // _CALLS_A_CLIENT]
            waits.note(await client.rerank("query", _DOCUMENTS, budget_ms=BUDGET_MS), started)

    numbers = iter(range(calls))
    begins_s = [number * _BETWEEN_CALLERS_S for number in range(CALLERS)]
    timers = [asyncio.create_task(timer(begin_s)) for begin_s in begins_s]
    await asyncio.gather(*(caller(begin_s) for begin_s in begins_s))
    for each in timers:
        each.cancel()
    for client in clients:
        await client.close()
    return waits
