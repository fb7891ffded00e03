"""A model on a pool of ours: somebody else's processes run it, and answer as much as fits the time that is left.

How the pool is reached is a `PoolTransport`'s: over gRPC from a sidecar, through a Ray handle inside the pool itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from router.arms import Availability, Strategy, Work
from router.fusion import all_finite
from router.latency import LatencyEstimator, LatencyPrior
from sidecar.engines.batching import estimated_tokens, max_characters
from sidecar.rerankers.base import (
    BadOutputError,
    Document,
    Identity,
    Limits,
    NotReadyError,
    OverloadedError,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.breaker import BreakerRules
from sidecar.rerankers.guard import Guard
from sidecar.rerankers.second_attempt import SecondAttempts

# The warm-up: (documents, words of each). The first call opens the connection, and counts for nothing.
_WARM_UP = ((1, 8), (1, 32), (4, 32), (12, 64), (24, 64))
_PRIOR = LatencyPrior(base_ms=10.0, ms_per_token=0.3)  # only until the warm-up has measured
_QUERY_TOKENS = 64
# A pool replaces a replica that died within seconds: it is tried again sooner than somebody else's API.
_RULES = BreakerRules(first_pause_s=1.0, longest_pause_s=15.0)
# How often the pool is asked which model it runs, unless its answers have told; also how often a pool that is not there
# is looked for. So long, at most, is an answer kept that a model gave which the pool has replaced meanwhile.
LOOK_S = 2.0
# What the way to the pool and back takes, by the characters that travel, until calls have told: kept back from what the
# pool may use. (Measured on one machine: 1 ms for 24 short texts, 4 to 7 ms for 1,000 of 900 characters.)
_WAY_PRIOR = LatencyPrior(base_ms=4.0, ms_per_token=1e-5)
# No more than this part of the time, so that one call that was stuck does not leave all others without time.
_LONGEST_WAY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class PoolAnswer:
    """What the pool made of one list: ``scored`` in the list's order, and what it took there, in ms, all in all."""

    scored: Scored
    total_ms: float


class PoolTransport(Protocol):
    """The way to one model of a pool. One attempt a call; whoever calls holds the clock."""

    async def ask(self, request: ScoreRequest, left_ms: float, limit_s: float) -> PoolAnswer:
        """Scores of what fits into ``left_ms`` at the pool; the rest is ``unscored`` and ``shortfall`` says why.

        Raises UnreachableError, another `RerankerError`, or TimeoutError after ``limit_s``.
        """
        ...

    async def revision(self, limit_s: float) -> str:
        """Which model the pool runs now.

        Raises `PoolRefusedError` where asking again would not help, otherwise as `ask`.
        """
        ...

    async def close(self) -> None:
        """Release connections; calls under way fail."""
        ...


class PoolRefusedError(RerankerError):
    """The pool is there, but not for this: it has no such model, or has it switched off. The message says the fix."""


class PoolReranker:
    """Scores candidates on a pool; implements the `Reranker` protocol.

    The whole list goes in one call, since the pool cuts it into chunks itself and stops in time. The instruction is
    ignored: the models that a pool serves take none.
    """

    def __init__(
        self,
        name: str,
        strategy: Strategy,
        connect: Callable[[], PoolTransport],
        *,
        max_documents: int = 1000,
        max_tokens: int = 512,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``connect`` is called on the event loop; ``max_tokens`` is what the pool's model reads of a pair (texts are
        cut accordingly, and work is estimated by it); ``timeout_s`` is the longest call, whatever the budget; ``clock``
        gives monotonic seconds. Raises ValueError for limits that are not positive.
        """
        for field, value in (("max_documents", max_documents), ("max_tokens", max_tokens), ("timeout_s", timeout_s)):
            if not 0 < value < math.inf:
                raise ValueError(f"reranker {name!r}: {field} is {value}; it must be more than 0")
        self._name = name
        self._strategy = strategy
        self._connect = connect
        self._limits = Limits(max_chunk_documents=max_documents, whole_list=True)
        self._max_tokens = max_tokens
        self._timeout_s = timeout_s
        self._clock = clock
        self._guard = Guard(name, timeout_s, clock, _RULES)
        self._estimator = LatencyEstimator(_PRIOR)
        self._attempts = SecondAttempts(clock)
        self._way = LatencyEstimator(_WAY_PRIOR)
        self._samples: tuple[tuple[int, float], ...] = ()
        self._transport: PoolTransport | None = None
        self._watching: asyncio.Task[None] | None = None
        self._revision = ""
        self._heard = -math.inf  # when the pool last said which model it runs
        self._warming = "looking for the pool"
        self._off = ""

    @property
    def identity(self) -> Identity:
        """``revision`` is that of the pool's model as the pool last said it, '' before it has: while a pool is updated
        it has two, and `Scored.revision` says whose the scores are."""
        return Identity(self._name, self._strategy, self._revision)

    @property
    def limits(self) -> Limits:
        """All candidates in one call."""
        return self._limits

    @property
    def scheduler(self) -> None:
        """None: calls run side by side, the pool shares its workers out."""

    def availability(self) -> Availability:
        """OFF with the reason, WARMING until the pool has answered, then as the circuit is."""
        return self._guard.availability(self._off, self._warming)

    def work(self, request: ScoreRequest) -> Work:
        """Tokens of every pair, estimated from characters; what the pool has kept is not known here."""
        query_tokens = estimated_tokens(request.query, min(_QUERY_TOKENS, self._max_tokens))
        room = self._max_tokens - query_tokens
        return Work(tuple(query_tokens + estimated_tokens(document.text, room) for document in request.documents))

    def queue_ms(self, end: float = math.inf) -> float:
        """0: whatever queue the pool has is part of its own time."""
        return 0.0

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """(tokens, milliseconds) of a few made-up calls, the way included."""
        return self._samples

    def remember(self, documents: Sequence[Document]) -> None:
        """Nothing: the pool is told of documents by scoring them."""

    async def start(self) -> None:
        """Look for the pool in the background, for as long as it takes; returns at once. Idempotent."""
        if self._watching is None and not self._off:
            self._watching = asyncio.create_task(self._watch(), name=f"watch pool for {self._name}")

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Score all candidates, at most ``limits.max_chunk_documents``, in one call, and a second one if the first did
        not reach the pool, or is unusually late, and there is time for it.

        Raises TimeoutError, NotReadyError, CircuitOpenError, BackendError, BadOutputError; ValueError for too many
        candidates. Cancelling cancels the call, which tells the pool to stop.
        """
        most = self._limits.max_chunk_documents
        if len(request.documents) > most:
            raise ValueError(f"{len(request.documents)} candidates in one call; at most {most} are taken")
        transport = self._transport
        if self._off or self._warming or transport is None:
            raise NotReadyError(f"{self._name}: {self._off or self._warming}")
        if not request.documents:
            return Scored(scores=(), tokens=0)
        async with self._guard.call(timeout_s) as call:
            scored = await self._call(transport, request, call.limit_s)
            call.typical = not scored.shortfall
        return scored

    async def close(self) -> None:
        """Close connections. OFF from then on. Idempotent."""
        self._off = "closed"
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def _call(self, transport: PoolTransport, request: ScoreRequest, limit_s: float) -> Scored:
        """One list, in one attempt or two. Raises TimeoutError or a `RerankerError`."""
        request = self._cut(request)
        characters = sum(len(document.text) for document in request.documents)
        started = self._clock()
        tokens = self.work(request).tokens_at(len(request.documents))
        usual = self._estimator.predict(tokens, started)

        async def ask(limit_s: float) -> PoolAnswer:
            asked = self._clock()
            # The pool's clock starts and stops there.
            way_ms = min(self._way.predict(characters, asked).p95_ms, 1e3 * limit_s * _LONGEST_WAY_SHARE)
            answer = await transport.ask(request, 1e3 * limit_s - way_ms, limit_s)
            answered = self._clock()
            self._way.observe(characters, max(0.0, (answered - asked) * 1e3 - answer.total_ms), answered)
            return answer

        async with asyncio.timeout(limit_s):
            answer = await self._attempts.run(ask, limit_s, usual.p95_ms / 1e3)
        scored = answer.scored
        if not all_finite(scored.scores, len(request.documents)):
            raise BadOutputError(f"{len(scored.scores)} scores for {len(request.documents)} candidates, or not finite")
        self._hear(scored.revision)
        # A pool that has too much to do, or too little time, has not failed.
        if len(scored.unscored) == len(scored.scores) and scored.shortfall_error not in (None, OverloadedError):
            raise scored.shortfall_error(scored.shortfall)
        if not scored.shortfall and scored.compute_ms:
            now = self._clock()
            self._estimator.observe(tokens, 1e3 * (now - started), now)
        return scored

    async def _watch(self) -> None:
        """Find the pool, get to know it, and from then on keep track of which model it runs."""
        while True:
            try:
                if self._transport is None:
                    self._transport = self._connect()
                if self._clock() - self._heard >= LOOK_S:
                    async with asyncio.timeout(self._timeout_s):
                        self._hear(await self._transport.revision(self._timeout_s))
                if self._warming:
                    self._samples = await self._warm_up(self._transport)
                self._off = self._warming = ""
            except PoolRefusedError as error:
                self._off = str(error)
            except (RerankerError, TimeoutError) as error:
                # Once it has been found, requests say what is wrong with it.
                if self._warming:
                    self._warming = f"looking for the pool: {error or 'no answer in time'}"
            await asyncio.sleep(LOOK_S)

    async def _warm_up(self, transport: PoolTransport) -> tuple[tuple[int, float], ...]:
        """Measure the pool with made-up texts, so that the first requests find an estimate of it."""
        samples = []
        for count, words in _WARM_UP:
            # Different texts, because a pool may keep their vectors.
            texts = [f"{count} {words} {number} " + "warm " * words for number in range(count)]
            documents = [Document(str(number), text, b"") for number, text in enumerate(texts)]
            made_up = ScoreRequest("warm up", "", documents[: self._limits.max_chunk_documents], use_cache=False)
            started = self._clock()
            scored = await self._call(transport, made_up, self._timeout_s)
            if not scored.shortfall:
                tokens = self.work(made_up).tokens_at(len(made_up.documents))
                samples.append((tokens, (self._clock() - started) * 1e3))
        return tuple(samples[1:])

    def _hear(self, revision: str) -> None:
        if revision:
            self._revision = revision
            self._heard = self._clock()

    def _cut(self, request: ScoreRequest) -> ScoreRequest:
        """Only what the pool's model may read of each text: no more of it has to travel."""
        most = max_characters(self._max_tokens)
        if all(0 < len(document.text) <= most for document in request.documents):
            return request
        # An empty text is refused by the contract; a model makes the same of a space.
        documents = [replace(document, text=document.text[:most] or " ") for document in request.documents]
        return replace(request, documents=documents)
