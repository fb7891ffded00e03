"""Ten thousand calls to a frozen sidecar, and timers that do nothing else in the same process at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from millirank import AsyncClient, Client, Ranking

CALLS = 10_000
CALLERS = 64
BUDGET_MS = 50.0
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

    timers = [threading.Thread(target=timer) for _ in range(CALLERS)]
    for each in timers:
        each.start()
    with ThreadPoolExecutor(CALLERS) as callers:
        for _ in callers.map(call, range(calls)):
            pass
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

    async def timer() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(BUDGET_MS / 1e3)
            waits.timers_ms.append((time.monotonic() - started) * 1e3)

    async def caller(numbers: Iterator[int]) -> None:
        for number in numbers:
            started = time.monotonic()
            client = clients[number // _CALLS_A_CLIENT]
            waits.note(await client.rerank("query", _DOCUMENTS, budget_ms=BUDGET_MS), started)

    timers = [asyncio.create_task(timer()) for _ in range(CALLERS)]
    numbers = iter(range(calls))
    await asyncio.gather(*(caller(numbers) for _ in range(CALLERS)))
    for each in timers:
        each.cancel()
    for client in clients:
        await client.close()
    return waits
