"""Sends arrivals through the Python client when they are due, and writes down what the caller saw."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from millirank import AsyncClient, MillirankError, Outcome, Ranking, Reason

from tests.bench.load.traffic import CANDIDATES, Arrival

USEFUL_DOCUMENTS = 16
_FIRST_S = 0.1  # the first arrival's moment 0 is this far ahead
_REFRESH_S = 0.5
# The client falls back for these, too; here they count as errors.
_BROKEN = frozenset({Reason.SIDECAR_ERROR, Reason.SIDECAR_UNAVAILABLE})


class Kind(StrEnum):
    """Whose ordering the caller got, and how much was scored for it. FALLBACK is the client's own, made in time."""

    FULL = auto()
    PARTIAL = auto()
    FIRST_STAGE = auto()
    FALLBACK = auto()
    ERROR = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as its caller saw it. Times in ms; ``latency_ms`` from the scheduled moment, ``lag_ms`` of it is the
    generator's own delay."""

    at_s: float
    budget_ms: float
    lag_ms: float
    latency_ms: float
    kind: Kind
    planned_k: int = 0
    scored: int = 0
    score_ms: float = 0.0
    reasons: tuple[str, ...] = ()

    @property
    def in_budget(self) -> bool:
        """Within budget + max(5 ms, 2 %)."""
        return self.latency_ms <= self.budget_ms + max(5.0, 0.02 * self.budget_ms)

    @property
    def useful(self) -> bool:
        """In time, from the sidecar, and at least `USEFUL_DOCUMENTS` or all documents scored."""
        scored_enough = self.scored >= min(USEFUL_DOCUMENTS, CANDIDATES)
        return scored_enough and self.in_budget and self.kind in (Kind.FULL, Kind.PARTIAL)


@dataclass(frozen=True, slots=True)
class Forced:
    """The arm that is asked for; by default the router chooses."""

    reranker: str = ""
    rerank_k: int = 0


async def send(
    client: AsyncClient, arrivals: Sequence[Arrival], forced: Forced, tick: Callable[[float], None]
) -> list[Seen]:
    """Every arrival at its moment, whatever became of those before; in the order of their moments.

    ``tick`` is called with the seconds that have gone by.
    """
    loop = asyncio.get_running_loop()
    with _no_collection():
        begin = loop.time() + _FIRST_S
        calls = []
        shown = 0.0
        for arrival in arrivals:
            due = begin + arrival.at_s
            while (left := due - loop.time()) > 0:
                await asyncio.sleep(min(left, _REFRESH_S))
            calls.append(asyncio.create_task(_send(client, arrival, due, forced)))
            if arrival.at_s - shown > _REFRESH_S:
                tick(shown := arrival.at_s)
        return list(await asyncio.gather(*calls))


async def _send(client: AsyncClient, arrival: Arrival, due: float, forced: Forced) -> Seen:
    started = time.monotonic()
    try:
        ranking: Ranking[object] | None = await client.rerank(
            arrival.query,
            arrival.documents,
            budget_ms=arrival.budget_ms,
            reranker=forced.reranker,
            rerank_k=forced.rerank_k,
            use_cache=False,
        )
        error = ""
    except MillirankError as failure:
        ranking, error = None, str(failure)
    ended = time.monotonic()
    times = (arrival.at_s, arrival.budget_ms, (started - due) * 1e3, (ended - due) * 1e3)
    if ranking is None:
        return Seen(*times, Kind.ERROR, reasons=(error,))
    reasons = tuple(reason.value for reason in ranking.reasons)
    if ranking.fallback or ranking.decision is None or ranking.timing is None:
        broken = not _BROKEN.isdisjoint(ranking.reasons)
        return Seen(*times, Kind.ERROR if broken else Kind.FALLBACK, reasons=reasons)
    scored = sum(one.scored for one in ranking)
    return Seen(
        *times,
        _kind(ranking, scored),
        planned_k=ranking.decision.planned_k,
        scored=scored,
        score_ms=ranking.timing.score_ms,
        reasons=reasons,
    )


def _kind(ranking: Ranking[object], scored: int) -> Kind:
    if scored == 0:
        return Kind.FIRST_STAGE
    return Kind.FULL if ranking.outcome is Outcome.RANKED else Kind.PARTIAL


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in between: a pause of the generator would count as the sidecar's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
