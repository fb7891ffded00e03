"""What a worker process and its parent say to each other: plain dataclasses in length-prefixed pickle frames.

Pickle is right here and only here: both ends are the same program, and the pipe belongs to them alone.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.engines.specs import Spec

HEADER = struct.Struct("!Q")  # length of the body that follows, in bytes
# Queries whose vectors the child keeps and the parent knows of. The chunks of one request share one; about 25 KB each.
KEPT_QUERIES = 64

ResultT_co = TypeVar("ResultT_co", covariant=True)


class Task(Generic[ResultT_co]):
    """Something to compute; the type parameter is what comes back."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PairResult:
    """``scores[i]`` belongs to text ``i``; ``tokens`` is what the model read."""

    scores: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class StoreChange:
    """What a task did to the kept vectors. Applied in this order: ``added`` are kept, then ``evicted`` are not.

    ``remark`` is something for the log, such as why the vector file can't be used; '' mostly.
    """

    added: tuple[bytes, ...] = ()
    evicted: tuple[bytes, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True)
class LateResult:
    """``scores[i]`` belongs to document ``i``.

    Where ``missing`` is not empty nothing was computed: these positions came without text, and their vectors are no
    longer kept. ``warm`` counts documents that needed no model run.
    """

    scores: tuple[float, ...]
    missing: tuple[int, ...]
    tokens: int
    warm: int
    change: StoreChange


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """Documents were encoded ahead of time; ``tokens`` is what the model read."""

    tokens: int
    change: StoreChange


@dataclass(frozen=True, slots=True)
class ScorePairs(Task[PairResult]):
    """Cross-encoder: score every text against the query."""

    query: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreLate(Task[LateResult]):
    """Late interaction: ``documents`` are (digest, text); the text is None where the vectors should be kept already."""

    query: str
    documents: tuple[tuple[bytes, str | None], ...]


@dataclass(frozen=True, slots=True)
class ScoreTogether(Task["tuple[PairResult | LateResult | str, ...]"]):
    """The tasks of several requests, all `ScorePairs` or all `ScoreLate`, in one run of the model.

    What comes back is a result for each, or why it has none; with every text, so that none can be missing.
    """

    parts: tuple[Task[object], ...]


@dataclass(frozen=True, slots=True)
class Encode(Task[EncodeResult]):
    """Late interaction: keep the vectors of these (digest, text) without scoring them."""

    documents: tuple[tuple[bytes, str], ...]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """``tokens``, counted as `Work` counts them, took ``elapsed_ms``; no tokens: this model has nothing to rehearse."""

    tokens: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Rehearse(Task[Rehearsed]):
    """Run one step of the warm-up again. Every model can, and keeps nothing of it."""

    step: int


@dataclass(frozen=True, slots=True)
class Load:
    """First message to a child: which model, and how to run it.

    ``vector_bytes`` bounds the vectors in memory, ``vector_file_bytes`` those in the file; None: there is no file.
    ``memory_bytes`` bounds what the child may allocate, model included; 0: nothing does.
    """

    spec: Spec
    threads: int
    niceness: int
    vector_bytes: int = 0
    vector_file: Path | None = None
    vector_file_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One task. The child answers with `Done` or `Broken` of the same ``id``."""

    id: int
    task: Task[object]


@dataclass(frozen=True, slots=True)
class Close:
    """The child is to exit."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is in memory; the warm-up begins."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The warm-up is over; ``samples`` are (tokens computed, milliseconds).

    ``revision`` is that of the loaded files, where only the child can tell; '' where the parent knows it already.
    ``kept`` are the documents whose vectors a file has kept from before.
    """

    samples: tuple[tuple[int, float], ...]
    revision: str = ""
    kept: StoreChange = StoreChange()


@dataclass(frozen=True, slots=True)
class Failed:
    """The model can't be loaded; trying again would not help."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A task's result and how long it took in the child."""

    id: int
    result: object
    compute_ms: float


@dataclass(frozen=True, slots=True)
class Broken:
    """A task failed; ``reason`` never holds query or document text."""

    id: int
    reason: str


Request = Load | Call | Close
Reply = Loaded | Ready | Failed | Done | Broken


def pack(message: Request | Reply) -> bytes:
    """One frame: header and body."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


def unpack(body: bytes) -> object:
    """The message in the body of a frame."""
    return pickle.loads(body)  # noqa: S301 - see above


@dataclass(frozen=True, slots=True)
class IndexedResult:
    """``scores[i]`` belongs to id ``i``; ``unscored`` are positions of ids that the index does not have (score 0.0).

    ``documents`` is how many the index has; ``tokens`` is what the model read: 0 for a query whose vectors were kept.
    """

    scores: tuple[float, ...]
    unscored: frozenset[int]
    documents: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ScoreIndexed(Task[IndexedResult]):
    """Late interaction over an index: score the documents with these ids in ``collection``."""

    query: str
    collection: str
    ids: tuple[str, ...]
