"""What every reranker is to the rest of the sidecar: one Protocol, plain dataclasses, no transport."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from router.arms import Availability, Strategy, Work
from sidecar.scheduler import Scheduler, Turn


class IndexedRef(NamedTuple):
    """A document in an index that was built before: the collection's name and the document's id in it."""

    collection: str
    id: str


@dataclass(frozen=True, slots=True)
class Document:
    """One candidate as the rerankers see it; its position in the request is its first-stage rank.

    ``text`` is already cut to the configured number of characters; ``digest`` is 16 bytes of BLAKE2b over that text
    and the tenant: equal texts of one tenant have equal digests, and what is kept for one is never found for another.
    ``indexed_ref`` says where its vectors lie, if an index has it; then the text may be empty.
    """

    id: str
    text: str
    digest: bytes
    indexed_ref: IndexedRef | None = None


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
    call (an LLM that ranks listwise), so that there is no partial result. ``reads_text`` False: it needs no texts.
    ``side_by_side``: a chunk's documents are computed at the same time, so that a smaller chunk is no faster.
    ``shares_calls``: a chunk may be computed in one call with those of other requests.
    ``promotion_cap``: how many places its scores may lift a candidate over its first-stage rank (0: any number).
    """

    max_chunk_documents: int
    whole_list: bool = False
    reads_text: bool = True
    side_by_side: bool = False
    shares_calls: bool = False
    promotion_cap: int = 0


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Candidates of one request, or of one chunk of it, in first-stage order.

    ``use_cache`` False: no kept score is used or kept.

    ``turn`` is the worker to use, where the caller has waited for it (see `Reranker.scheduler`). ``tenant`` goes along
    to whoever keeps something elsewhere; here `Document.digest` holds it already.
    """

    query: str
    instruction: str
    documents: Sequence[Document]
    use_cache: bool = True
    turn: Turn | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one chunk: ``scores[i]`` belongs to ``documents[i]``; higher is better.

    ``queue_ms`` is the time that `score` spent waiting for the model to be free, ``compute_ms`` the model's own;
    ``cached`` counts documents that needed no model run; ``tokens`` is what the model really read. ``unscored`` are
    positions in the chunk that the model left out (their scores mean nothing); ``shortfall`` says in words what could
    not be finished, where a reranker knows better than its caller, and ``shortfall_error`` why, where it was not time.
    ``revision`` is that of the model that gave these scores, where it may differ from what `Identity` says: a pool in
    the middle of an update has two. '' is the identity's.
    """

    scores: tuple[float, ...]
    tokens: int
    cached: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    micro_usd: float = 0.0
    unscored: frozenset[int] = frozenset()
    shortfall: str = ""
    shortfall_error: type[RerankerError] | None = None
    revision: str = ""


class RerankerError(Exception):
    """Scoring failed. The message is for operators: it never contains query or document text.

    ``micro_usd`` is what the backend charges all the same.
    """

    def __init__(self, message: str = "", *, micro_usd: float = 0.0) -> None:
        super().__init__(message)
        self.micro_usd = micro_usd


class BackendError(RerankerError):
    """The model or its API failed."""


class BadOutputError(RerankerError):
    """The model answered something that cannot be used: unreadable, too few or too many scores, not finite."""


class NotReadyError(RerankerError):
    """The model is still loading or restarting."""


class IndexUnavailableError(RerankerError):
    """The index that holds the documents' vectors can't be read, or does not hold what was asked for."""


class OverloadedError(RerankerError):
    """Too much other work was before this at the backend."""


class CircuitOpenError(RerankerError):
    """The backend failed too often a moment ago and is left alone for now."""


class Reranker(Protocol):
    """A configured model. Everything but `score`, `start` and `close` is immediate and never blocks."""

    @property
    def identity(self) -> Identity: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def scheduler(self) -> Scheduler | None:
        """Who is asked for a turn before `score`, where workers are shared out; None: calls run side by side."""
        ...

    def availability(self) -> Availability:
        """Whether it can take work now, and if not, why."""
        ...

    def work(self, request: ScoreRequest) -> Work:
        """What scoring these candidates would still have to compute, and everything if it may not use what is kept.

        ``turn`` is not looked at. An estimate; costs microseconds.
        """
        ...

    async def start(self) -> None:
        """Begin loading in the background; returns at once. `availability` turns READY when it can score."""
        ...

    def queue_ms(self, end: float = math.inf) -> float:
        """How long work that comes now and must be done by ``end`` would wait for the work before it, in milliseconds.

        ``end`` is in seconds on the monotonic clock; by default it waits for everybody.
        """
        ...

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """What the warm-up measured, as (tokens computed, milliseconds); seeds the latency estimator.

        The same object until something was measured anew.
        """
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
