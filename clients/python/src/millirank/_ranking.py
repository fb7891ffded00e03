"""What a rerank answers: the caller's own documents in their new order, and how that came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Any, Generic, NamedTuple, TypeVar, overload

from millirank._decision import Decision

T = TypeVar("T")


class Outcome(StrEnum):
    """How much of the planned work is in an ordering."""

    RANKED = auto()
    """All of it. The plan may have been to keep the first-stage order: then `Decision.strategy` is NONE."""
    PARTIAL = auto()
    """The best-ranked candidates were scored; the rest follow in first-stage order."""
    FIRST_STAGE = auto()
    """None of it: this is the first-stage order. `Ranking.reasons` says why."""


class Reason(StrEnum):
    """Why an ordering is less than planned. The first eleven come from the sidecar, the rest from this
    client.
    """

    BUDGET_TOO_SMALL = auto()
    BUDGET_EXHAUSTED = auto()
    OVERLOADED = auto()
    NOT_READY = auto()
    BACKEND_ERROR = auto()
    BACKEND_TIMEOUT = auto()
    CIRCUIT_OPEN = auto()
    BAD_OUTPUT = auto()
    INDEX_UNAVAILABLE = auto()
    DRAINING = auto()
    INTERNAL = auto()
    SIDECAR_TIMEOUT = auto()
    """The sidecar did not answer within the budget."""
    SIDECAR_UNAVAILABLE = auto()
    """The sidecar could not be reached, or the connection broke."""
    SIDECAR_ERROR = auto()
    """The sidecar answered with an error, or with an ordering that cannot be used."""


class CacheStatus(StrEnum):
    """Whether the answer was computed for this request."""

    UNSPECIFIED = auto()
    MISS = auto()
    HIT = auto()
    SHARED = auto()


@dataclass(frozen=True, slots=True)
class Document:
    """A candidate, for callers without a class of their own. ``payload`` never leaves the process.

    ``signals`` are first-stage scores by name (``bm25``, ``dense``, ...), higher is better, finite.
    ``indexed_ref`` is (collection, id) of the document in an index that ``millirank index`` has built; with
    it the text may be empty, and then only rerankers that score over that index can score the document.
    """

    id: str = ""
    text: str = ""
    signals: Mapping[str, float] = field(default_factory=dict)
    payload: Any = None
    indexed_ref: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Degradation:
    """One cause of an answer that is less than planned; ``detail`` is for a person, not to be parsed."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, in ms, on the sidecar's clock."""

    total_ms: float
    route_ms: float
    queue_ms: float
    score_ms: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What the sidecar computed: query-document pairs, those of them that were cached, tokens, millionths of
    a US dollar.
    """

    pairs: int
    cached_pairs: int
    tokens: int
    cost_micro_usd: int


class Ranked(NamedTuple, Generic[T]):
    """One candidate in the new order.

    ``document`` is the object that the caller passed, ``index`` its position there (from 0; its first-stage
    rank). ``score`` is what the scored candidates are ordered by, comparable only within one ranking;
    ``raw_score`` is the model's own. Both are None where nothing scored this candidate. ``truncated``: only
    the beginning of its text was read.

    (A named tuple because hundreds are made per call, within the budget: a frozen dataclass takes four times as long.)
    """

    document: T
    # It hides tuple.index(value), which nobody needs here.
    index: int  # type: ignore[assignment]
    score: float | None = None
    raw_score: float | None = None
    scored: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Ranked[T]]):
    """The candidates, best first. Iterates, counts and indexes like the sequence of its `Ranked` entries.

    ``fallback`` is True where this client made the ordering because no usable answer came; then ``decision``,
    ``timing`` and ``usage`` are None. ``elapsed_ms`` is what the caller waited, from the call to this object.
    """

    results: tuple[Ranked[T], ...]
    outcome: Outcome
    degradations: tuple[Degradation, ...] = ()
    fallback: bool = False
    request_id: str = ""
    elapsed_ms: float = 0.0
    decision: Decision | None = None
    timing: Timing | None = None
    usage: Usage | None = None
    cache_status: CacheStatus = CacheStatus.UNSPECIFIED

    @property
    def documents(self) -> list[T]:
        """The caller's own objects, best first."""
        return [ranked.document for ranked in self.results]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why this is less than planned; empty when it is not."""
        return tuple(degradation.reason for degradation in self.degradations)

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Ranked[T]]:
        return iter(self.results)

    @overload
    def __getitem__(self, position: int) -> Ranked[T]: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[Ranked[T], ...]: ...

    def __getitem__(self, position: int | slice) -> Ranked[T] | tuple[Ranked[T], ...]:
        return self.results[position]
