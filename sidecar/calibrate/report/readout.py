"""Everything a calibration has to say, as plain data; HTML, Markdown, JSON and the console show the same figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

FORMAT: Final = "millirank.calibration/1"
NONE_ARM = "none"
"""First-stage order, as an arm."""


class ReadOutError(Exception):
    """A read-out file that can't be used. The message names the file, what is wrong and the fix."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean difference of nDCG@10 over queries, its 95 % paired bootstrap interval, and in how many queries it is
    above (``helped``) or below (``hurt``) zero by more than rounding."""

    mean: float
    low: float
    high: float
    helped: int
    hurt: int


@dataclass(frozen=True, slots=True)
class Added:
    """What an arm adds to the latency of the same request without reranking, in ms as the caller sees it.

    ``p50_low`` and ``p50_high`` are the median's own 95 % bootstrap interval; ``pairs_per_s`` counts what was scored
    in the time that was added.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    p50_low_ms: float
    p50_high_ms: float
    pairs_per_s: float
    requests: int


@dataclass(frozen=True, slots=True)
class ArmPoint:
    """One arm, a reranker at one ``rerank_k``; ``none`` has 0.

    ``warm``: candidates that had been scored before, for another query; ``cold``: never seen. None where that was
    not measured. ``usd_per_1k`` is the price of 1,000 requests at the configured rates. ``per_query`` is nDCG@10 in
    the order of `ReadOut.query_ids`.
    """

    reranker: str
    strategy: str
    rerank_k: int
    ndcg10: float
    mrr10: float
    gain: Gain
    warm: Added | None
    cold: Added | None
    usd_per_1k: float | None
    per_query: tuple[float, ...]

    @property
    def label(self) -> str:
        """``minilm-l6@50``, or the name alone where the number of candidates means nothing."""
        return f"{self.reranker}@{self.rerank_k}" if self.rerank_k else self.reranker


@dataclass(frozen=True, slots=True)
class Curve:
    """nDCG@10 over rerank_k of one arm.

    ``knee``: where kneed sees the curve flatten, None if nowhere. ``recommended_k``: the smallest k whose nDCG@10 is
    within one paired standard error of the best k's. ``on``: whether the fitted profile lets the router use the arm;
    ``why`` says what speaks against it.
    """

    reranker: str
    strategy: str
    points: tuple[tuple[int, float], ...]
    knee: int | None
    recommended_k: int
    on: bool
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """An arm that the router took, and for which share of the queries."""

    reranker: str
    rerank_k: int
    share: float

    @property
    def label(self) -> str:
        """As `ArmPoint.label`."""
        return f"{self.reranker}@{self.rerank_k}" if self.rerank_k else self.reranker


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What the router does within ``budget_ms`` where documents are warm, or cold.

    ``choices`` come from the fitted profile, the most frequent first. ``ndcg10`` and ``gain`` are of the router's own
    answers, decided and fused with a profile that was fitted on other queries; ``per_query`` as in `ArmPoint`.
    ``predicted_p50_ms`` is the mean over queries, ``predicted_p95_ms`` the largest.
    """

    budget_ms: float
    documents: Literal["warm", "cold"]
    choices: tuple[Choice, ...]
    ndcg10: float
    gain: Gain
    predicted_p50_ms: float
    predicted_p95_ms: float
    per_query: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """What the first stage delivers, means over queries.

    ``recall50``: share of a query's relevant documents among the first 50 candidates; ``precision5``: share of
    relevant ones among the first five, ``best_precision5`` if the candidates were in perfect order; ``ceiling``:
    nDCG@10 of the first k candidates in perfect order, which no reranker can pass.
    """

    recall50: float
    precision5: float
    best_precision5: float
    ceiling: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Is reranking the fix here? ``kind`` for programs, ``headline`` and ``reasons`` for people."""

    kind: Literal["rerank", "signals", "retrieval", "no_rerank", "unclear"]
    headline: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """What was calibrated: ``labels`` says where the judgements come from, ``machine`` what it ran on."""

    collection: str
    documents: int
    queries: int
    first_stage: str
    labels: str
    machine: str
    made: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadOut:
    """The whole read-out. ``default_budget_ms`` is the budget of a request that names none; the gate looks at it.

    ``traits`` says in words whether the queries' traits predict gains with ``signals``. ``requests`` is how many timed
    ones each arm was to have at each k (0: not known).
    """

    format: Literal["millirank.calibration/1"]
    source: Source
    corpus: str
    profile_revision: str
    signals: str
    query_ids: tuple[str, ...]
    points: tuple[ArmPoint, ...]
    curves: tuple[Curve, ...]
    recommendations: tuple[Recommendation, ...]
    default_budget_ms: float
    context: Context
    verdict: Verdict
    traits: str = ""
    requests: int = 0

    def point(self, reranker: str, rerank_k: int) -> ArmPoint | None:
        """That arm, or None if it was not measured."""
        return next((p for p in self.points if (p.reranker, p.rerank_k) == (reranker, rerank_k)), None)

    @property
    def none(self) -> ArmPoint:
        """First-stage order."""
        return next(point for point in self.points if point.reranker == NONE_ARM)

    def recommended(self, budget_ms: float, documents: str) -> Recommendation:
        """The recommendation for that budget. Raises KeyError if there is none."""
        for recommendation in self.recommendations:
            if (recommendation.budget_ms, recommendation.documents) == (budget_ms, documents):
                return recommendation
        raise KeyError(f"no recommendation for {budget_ms:g} ms and {documents} documents")


def write_json(path: Path, readout: ReadOut) -> None:
    """For programs, and for a later `--compare`."""
    from pydantic import TypeAdapter

    path.write_bytes(TypeAdapter(ReadOut).dump_json(readout, indent=1) + b"\n")


def read_json(path: Path) -> ReadOut:
    """What `write_json` wrote. Raises ReadOutError."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(ReadOut).validate_json(path.read_bytes())
    except OSError as error:
        raise ReadOutError(f"{path} can't be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ReadOutError(
            f"{path}: {where}: {first['msg']}; expected the report.json of a `millirank calibrate` of this version"
        ) from None
