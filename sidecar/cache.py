"""Answers that are kept, and answers that are shared: never compute the same thing twice.

Only complete outcomes are kept (DESIGN section 6, invariant 9). A key holds everything that an outcome depends on;
the caller's ids, ``top_n`` and ``min_score`` are applied afterwards and are not part of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
from collections.abc import Callable, Coroutine, Sequence

from cachetools import TTLCache

from router.policy import Decision
from sidecar.messages import Completeness, Outcome, Request
from sidecar.rerankers.base import Document

# One Ranked with its floats and the tuple slot, measured on CPython 3.11; only the order of magnitude matters.
_BYTES_PER_RANKED = 160
_BYTES_PER_ENTRY = 1024


def result_key(
    request: Request,
    documents: Sequence[Document],
    decision: Decision,
    model_revision: str,
    profile_revision: str,
) -> bytes:
    """Digest of all that decides an outcome: tenant, arm, model, profile, query, instruction, texts and signals."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (
        request.tenant,
        decision.strategy,
        decision.reranker,
        model_revision,
        profile_revision,
        decision.signal_set,
        request.query,
        request.instruction,
    ):
        raw = text.encode()
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        digest.update(struct.pack("<I", len(raw)) + raw)
    digest.update(struct.pack("<II", decision.planned_k, len(documents)))
    for document, candidate in zip(documents, request.candidates, strict=True):
        digest.update(document.digest)
        for text in document.indexed_ref or ():
            raw = text.encode()
            digest.update(struct.pack("<I", len(raw)) + raw)
        for name in sorted(candidate.signals):
            raw = name.encode()
            digest.update(struct.pack("<Id", len(raw), candidate.signals[name]) + raw)
    return digest.digest()


class ResultCache:
    """Complete outcomes by key, bounded in bytes and in time."""

    def __init__(self, max_bytes: int, ttl_s: float, timer: Callable[[], float] = time.monotonic) -> None:
        self._entries: TTLCache[bytes, Outcome] = TTLCache(max_bytes, ttl_s, timer, _size)

    def get(self, key: bytes) -> Outcome | None:
        """The kept outcome, if there is one and it is fresh."""
        return self._entries.get(key)

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Keep it if it is complete and small enough."""
        if outcome.completeness is Completeness.FULL and _size(outcome) <= self._entries.maxsize:
            self._entries[key] = outcome

    def __len__(self) -> int:
        return len(self._entries)


def _size(outcome: Outcome) -> int:
    return _BYTES_PER_ENTRY + _BYTES_PER_RANKED * len(outcome.ranked)


class SingleFlight:
    """Equal requests that are under way at the same time are computed once.

    The computation belongs to no caller: one that is cancelled or runs out of time leaves, the others keep waiting,
    and only when nobody is left is the computation itself cancelled.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight] = {}

    async def run(
        self, key: bytes, compute: Callable[[], Coroutine[None, None, Outcome]], timeout_s: float
    ) -> tuple[Outcome, bool]:
        """The outcome, and whether somebody else had started it.

        Who joins waits at most ``timeout_s`` (then TimeoutError); who starts it has given ``compute`` its own end.
        """
        flight = self._flights.get(key)
        shared = flight is not None
        if flight is None:
            flight = _Flight(asyncio.create_task(compute()))
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._ended(key, task))
        flight.waiting += 1
        try:
            done, _ = await asyncio.wait({flight.task}, timeout=timeout_s if shared else None)
            if not done:
                raise TimeoutError
            return flight.task.result(), shared
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                # Nobody may join a computation that is being cancelled.
                self._forget(key, flight.task)
                flight.task.cancel()

    def _ended(self, key: bytes, task: asyncio.Task[Outcome]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            # Who waits gets it from the task. Where nobody does any more, asyncio would report it, words and all.
            task.exception()

    def _forget(self, key: bytes, task: asyncio.Task[Outcome]) -> None:
        # A later flight may have taken the key over; it stays.
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


class _Flight:
    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Outcome]) -> None:
        self.task = task
        self.waiting = 0
