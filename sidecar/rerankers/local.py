"""What the rerankers with a model of their own share: a worker process, an identity, an idea of the model's pace."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar

from router.arms import Availability, Strategy, Work
from router.latency import LatencyEstimator, LatencyPrior
from sidecar.engines.batching import max_characters
from sidecar.rerankers.base import Document, Identity, Limits, Scored, ScoreRequest
from sidecar.rerankers.loadable import Loadable
from sidecar.worker_messages import Ready, Task
from sidecar.worker_process import Patience, WorkerProcess
from sidecar.worker_queue import Answer

ResultT = TypeVar("ResultT")

# Most model tokens in one call of the child. A chunk of the pipeline is far smaller; this cuts another caller's long
# list, so that the child is free for others in between and no call comes near the hard limit.
MOST_TOKENS = 512
PRIOR = LatencyPrior(base_ms=1.0, ms_per_token=0.3)  # only until the warm-up has reported


class LocalReranker(ABC):
    """A model run by a worker process.

    A model that can't be used does not raise: `availability` is OFF with the reason, and the revision "unavailable".
    """

    def __init__(self, name: str, strategy: Strategy, model: Loadable, limits: Limits) -> None:
        self._name = name
        self._strategy = strategy
        self._revision = model.revision
        self._limits = limits
        self._truncation = model.truncation
        self._samples: tuple[tuple[int, float], ...] = ()
        self._estimator = LatencyEstimator(PRIOR)
        self._worker = WorkerProcess(
            name,
            model.load,
            Patience(call_s=model.hard_limit_s, load_s=model.load_s),
            on_ready=self._on_ready,
            on_result=self._on_result,
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
        return self._worker.pid

    def availability(self) -> Availability:
        """The worker process's state."""
        return self._worker.availability()

    def queue_ms(self) -> float:
        """How long a call made now would wait."""
        return self._worker.queue_ms()

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """(tokens, milliseconds) of the child's warm-up; empty before it is READY."""
        return self._samples

    def remember(self, documents: Sequence[Document]) -> None:  # noqa: B027 - most models keep nothing
        """Nothing to prepare, unless a subclass keeps something per document."""

    async def start(self) -> None:
        """Starts the child in the background."""
        self._worker.start()

    async def close(self) -> None:
        """Ends the child."""
        await self._worker.close()

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Scores the documents; the instruction is ignored, these models can't follow one.

        A list that is too long for one call is sent in several, and nothing more is sent once the caller is cancelled.
        Raises TimeoutError, NotReadyError or BackendError.
        """
        deadline = time.monotonic() + timeout_s
        work = self.work(request.query, request.instruction, request.documents)
        parts: list[Scored] = []
        unscored: set[int] = set()
        for first, last in _cuts(work.tokens, self._limits.max_chunk_documents):
            tokens = sum(work.tokens[first:last]) + (work.fixed_tokens if first == 0 else 0)
            part = await self._score_chunk(request.query, request.documents[first:last], tokens, deadline)
            parts.append(part)
            unscored.update(first + position for position in part.unscored)
        return Scored(
            scores=tuple(score for part in parts for score in part.scores),
            tokens=sum(part.tokens for part in parts),
            cached=sum(part.cached for part in parts),
            queue_ms=sum(part.queue_ms for part in parts),
            compute_ms=sum(part.compute_ms for part in parts),
            unscored=frozenset(unscored),
        )

    @abstractmethod
    def work(self, query: str, instruction: str, documents: Sequence[Document]) -> Work:
        """What is still to compute."""

    @abstractmethod
    async def _score_chunk(self, query: str, documents: Sequence[Document], tokens: int, deadline: float) -> Scored:
        """Scores what fits into one call. ``tokens`` is its estimated work."""

    async def _call(self, task: Task[ResultT], tokens: int, deadline: float | None) -> Answer[ResultT]:
        """One call of the child, which also teaches the estimate that `queue_ms` is made of."""
        now = time.monotonic()
        timeout_s = None if deadline is None else deadline - now
        answer = await self._worker.call(task, timeout_s, self._estimator.predict(tokens, now).p50_ms)
        self._estimator.observe(tokens, answer.compute_ms, time.monotonic())
        return answer

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
