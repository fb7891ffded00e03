"""What the rerankers with a model of their own share: a worker process, an identity, an idea of the model's pace."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TypeVar

from router.admission import Claim, Level
from router.arms import Availability, Strategy, Work
from router.latency import LatencyEstimator, LatencyPrior
from sidecar.engines.batching import max_characters
from sidecar.rerankers.base import Document, Identity, Limits, RerankerError, Scored, ScoreRequest
from sidecar.rerankers.loadable import Loadable
from sidecar.scheduler import Scheduler, Scheduling, TooLateError, Turn
from sidecar.worker_messages import Ready, Rehearse, Task
from sidecar.worker_pool import WorkerPool
from sidecar.worker_process import Answer, Patience

ResultT = TypeVar("ResultT")

# Most model tokens in one call of the child, where the caller has not waited for a turn and so has not cut its list
# into chunks: the child is free for others in between, and no call comes near the hard limit.
MOST_TOKENS = 512
# An idle child runs a step of its warm-up that often; less often where it would take more than this share of the time.
REHEARSE_AFTER_S = 5.0
_REHEARSAL_SHARE = 0.01
PRIOR = LatencyPrior(base_ms=1.0, ms_per_token=0.3)  # only until the warm-up has reported


class LocalReranker(ABC):
    """A model run by worker processes.

    A model that can't be used does not raise: `availability` is OFF with the reason, and the revision "unavailable".
    """

    def __init__(self, name: str, strategy: Strategy, model: Loadable, limits: Limits, scheduling: Scheduling) -> None:
        self._name = name
        self._strategy = strategy
        self._revision = model.revision
        self._limits = limits
        self._truncation = model.truncation
        self._samples: tuple[tuple[int, float], ...] = ()
        self._estimator = LatencyEstimator(PRIOR)
        self._idler: asyncio.Task[None] | None = None
        self._workers = WorkerPool(
            name,
            model.load,
            Patience(call_s=model.hard_limit_s, load_s=model.load_s),
            scheduling,
            on_ready=self._on_ready,
            on_result=self._on_result,
            count=model.workers,
        )

    @property
    def identity(self) -> Identity:
        """Name, strategy, and a revision that changes with files, truncation and engine ('' until it is known)."""
        return Identity(self._name, self._strategy, self._revision)

    @property
    def limits(self) -> Limits:
        """Documents that one call of `score` should carry at most; it cuts longer lists itself."""
        return self._limits

    @property
    def pid(self) -> int | None:
        """The child's process id, for memory figures; None while there is no child."""
        return self._workers.pid

    def availability(self) -> Availability:
        """The worker processes' state."""
        return self._workers.availability()

    @property
    def scheduler(self) -> Scheduler:
        """Who shares the workers out."""
        return self._workers.scheduler

    def queue_ms(self, end: float = math.inf) -> float:
        """How long work that is needed by ``end`` would wait."""
        return self.scheduler.queue_ms(end)

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """(tokens, milliseconds) of the child's warm-up, renewed while it is idle; empty before it is READY."""
        return self._samples

    def remember(self, documents: Sequence[Document]) -> None:  # noqa: B027 - most models keep nothing
        """Nothing to prepare, unless a subclass keeps something per document."""

    async def start(self) -> None:
        """Starts the child, and what keeps an eye on it while it is idle, in the background."""
        self._workers.start()
        if self._idler is None:
            self._idler = asyncio.create_task(self._rehearse_when_idle(), name=f"rehearse {self._name}")

    async def close(self) -> None:
        """Ends both."""
        if self._idler is not None:
            self._idler.cancel()
            await asyncio.wait({self._idler})
        await self._workers.close()

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Scores the documents; the instruction is ignored, these models can't follow one.

        With a turn it is one call. Without, this waits for turns of its own, and a list that is too long for one call
        goes in several; nothing more is sent once the caller is cancelled.
        Raises TimeoutError, NotReadyError or BackendError.
        """
        work = self.work(request)
        if request.turn is not None:
            tokens = work.tokens_at(len(request.documents))
            return await self._score_chunk(request.query, request.documents, tokens, request.turn)
        end = time.monotonic() + timeout_s
        parts: list[Scored] = []
        unscored: set[int] = set()
        queue_ms = 0.0
        for first, last in _cuts(work.tokens, self._limits.max_chunk_documents):
            tokens = sum(work.tokens[first:last]) + (work.fixed_tokens if first == 0 else 0)
            async with self._own_turn(tokens, end) as turn:
                part = await self._score_chunk(request.query, request.documents[first:last], tokens, turn)
            parts.append(part)
            unscored.update(first + position for position in part.unscored)
            queue_ms += turn.waited_ms
        return Scored(
            scores=tuple(score for part in parts for score in part.scores),
            tokens=sum(part.tokens for part in parts),
            cached=sum(part.cached for part in parts),
            queue_ms=queue_ms,
            compute_ms=sum(part.compute_ms for part in parts),
            unscored=frozenset(unscored),
        )

    @abstractmethod
    def work(self, request: ScoreRequest) -> Work:
        """What is still to compute."""

    @abstractmethod
    async def _score_chunk(self, query: str, documents: Sequence[Document], tokens: int, turn: Turn) -> Scored:
        """Scores what fits into one call. ``tokens`` is its estimated work."""

    async def _call(self, task: Task[ResultT], tokens: int, turn: Turn) -> Answer[ResultT]:
        """One call of a child, which also teaches the estimate that calls without a turn wait by."""
        answer = await self._workers.call(task, turn)
        if turn.speaks_for_call:
            self._estimator.observe(tokens + turn.beside_tokens, answer.compute_ms, time.monotonic())
        return answer

    async def _rehearse_when_idle(self) -> None:
        """Runs a step of the warm-up again from time to time.

        A model that was warmed up beside something that took the CPU looks slow, is not chosen, and so would never show
        that it is fast; and a child that hangs while nobody needs it is found before somebody does.
        """
        pause_s = REHEARSE_AFTER_S
        for number in itertools.count():
            await self._workers.quiet(pause_s)
            step = number % max(1, len(self._samples))
            # What is wrong with it is said by `availability`.
            with contextlib.suppress(RerankerError, TimeoutError):
                async with self._own_turn(self._samples[step][0] if self._samples else 0) as turn:
                    answer = await self._workers.call(Rehearse(step), turn)
                if answer.result.tokens:
                    measured = (answer.result.tokens, answer.result.elapsed_ms)
                    self._samples = (*self._samples[:step], measured, *self._samples[step + 1 :])
                pause_s = max(REHEARSE_AFTER_S, answer.compute_ms / 1e3 / _REHEARSAL_SHARE)

    @contextlib.asynccontextmanager
    async def _own_turn(self, tokens: int, end: float = math.inf) -> AsyncIterator[Turn]:
        """A turn for work that is needed by ``end``, or, without one, for work ahead of time, whenever nobody waits.

        Raises TimeoutError or NotReadyError.
        """
        self._workers.check_ready()
        needs_s = self._estimator.predict(tokens, time.monotonic()).p50_ms / 1e3
        level = Level.IDLE if end == math.inf else Level.OPTIONAL
        with self.scheduler.squeeze_in(Claim(level, end, needs_s, arrived=time.monotonic())) as place:
            try:
                turn = await place.next_turn(level, needs_s)
            except TooLateError as error:
                raise TimeoutError from error
            with turn:
                turn.expected_s = needs_s
                yield turn

    def _query_text(self, query: str) -> str:
        return query[: max_characters(self._truncation.query_max_tokens)]

    def _document_text(self, document: Document) -> str:
        """The part of the text that the model may read: no more of it has to travel to the child."""
        return document.text[: max_characters(self._truncation.max_tokens)]

    def _on_ready(self, ready: Ready) -> None:
        self._samples = ready.samples
        self._revision = ready.revision or self._revision
        now = time.monotonic()
        for tokens, elapsed_ms in ready.samples:
            self._estimator.observe(tokens, elapsed_ms, now)

    def _on_result(self, result: object) -> None:  # noqa: B027 - most models keep nothing
        """Told of every result, also of one whose caller has gone."""


def _cuts(tokens: Sequence[int], max_documents: int) -> Iterator[tuple[int, int]]:
    """[first, last) of consecutive chunks of at most ``max_documents`` and `MOST_TOKENS`, one document at least."""
    first = total = 0
    for position, count in enumerate(tokens):
        if position > first and (position - first == max_documents or total + count > MOST_TOKENS):
            yield first, position
            first, total = position, 0
        total += count
    if first < len(tokens):
        yield first, len(tokens)
