"""What every reranker is to the rest of the sidecar: one Protocol, plain dataclasses, no transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.arms import Availability, Strategy, Work


@dataclass(frozen=True, slots=True)
class Document:
    """One candidate as the rerankers see it; its position in the request is its first-stage rank.

    ``text`` is already cut to the configured number of characters; ``digest`` is 16 bytes of BLAKE2b over that text
    (equal texts have equal digests).
    """

    id: str
    text: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who scores. ``revision`` changes whenever weights, tokenizer, prompt or truncation change."""

    name: str
    strategy: Strategy
    revision: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How a reranker wants its work cut.

    ``max_chunk_documents`` bounds one call of `Reranker.score`; ``whole_list`` asks for all candidates in a single
    call (an LLM that ranks listwise), so that there is no partial result.
    """

    max_chunk_documents: int
    whole_list: bool = False


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One chunk of one request: candidates in first-stage order."""

    query: str
    instruction: str
    documents: Sequence[Document]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one chunk: ``scores[i]`` belongs to ``documents[i]``; higher is better.

    ``queue_ms`` is the time spent waiting for the model to be free, ``compute_ms`` the model's own; ``cached`` counts
    documents that needed no model run; ``tokens`` is what the model really read.
    """

    scores: tuple[float, ...]
    tokens: int
    cached: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    micro_usd: float = 0.0


class RerankerError(Exception):
    """Scoring failed. The message is for operators: it never contains query or document text."""


class BackendError(RerankerError):
    """The model or its API failed."""


class BadOutputError(RerankerError):
    """The model answered something that cannot be used: unreadable, too few or too many scores, not finite."""


class NotReadyError(RerankerError):
    """The model is still loading or restarting."""


class CircuitOpenError(RerankerError):
    """The backend failed too often a moment ago and is left alone for now."""


class Reranker(Protocol):
    """A configured model. Everything but `score`, `start` and `close` is immediate and never blocks."""

    @property
    def identity(self) -> Identity: ...

    @property
    def limits(self) -> Limits: ...

    def availability(self) -> Availability:
        """Whether it can take work now, and if not, why."""
        ...

    def work(self, query: str, instruction: str, documents: Sequence[Document]) -> Work:
        """What scoring these candidates would still have to compute. An estimate; costs microseconds."""
        ...

    async def start(self) -> None:
        """Begin loading in the background; returns at once. `availability` turns READY when it can score."""
        ...

    def queue_ms(self) -> float:
        """How long work that starts now would wait for the work before it, in milliseconds."""
        ...

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """What the warm-up measured, as (tokens computed, milliseconds); seeds the latency estimator."""
        ...

    def remember(self, documents: Sequence[Document]) -> None:
        """Told of every request's candidates after its answer: a reranker that keeps documents' vectors may prepare
        those that it lacks while it has nothing else to do. Returns at once."""
        ...

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Score one chunk.

        Raises TimeoutError after ``timeout_s`` seconds, or a `RerankerError`. Cancelling it frees the caller at
        once; a model call that has already begun may finish in the background and its result is dropped.
        """
        ...

    async def close(self) -> None:
        """Release processes and connections. Idempotent."""
        ...
