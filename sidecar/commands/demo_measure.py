"""What the demo measures: the same questions at one budget, through the client, and what came of them."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millirank import Client, Document, Ranking, Strategy

from sidecar.calibrate.metrics import Qrels, mrr_at_10, ndcg_at_10

# DESIGN section 6, invariant 1: what a caller sees takes at most budget + max(5 ms, 2 %).
_TOLERANCE_MS = 5.0
_TOLERANCE_SHARE = 0.02
# A question whose documents are to be warmed may take as long as encoding all of them takes.
_WARM_BUDGET_MS = 30_000.0


@dataclass(frozen=True, slots=True)
class Search:
    """One question and its candidates, the first stage's best first."""

    id: str
    text: str
    candidates: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One rerank as its caller saw it. ``arm`` is the reranker's name, or the strategy where there is none."""

    question: str
    elapsed_ms: float
    order: tuple[str, ...]
    arm: str
    planned_k: int
    scored_k: int
    fallback: bool


@dataclass(frozen=True, slots=True)
class Quality:
    """nDCG@10 and MRR@10, means over the questions."""

    ndcg10: float
    mrr10: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: all questions of one pass.

    ``warm_share`` is the share of candidates that late interaction had read before. ``arms`` counts (arm, planned k).
    ``coverage`` is the mean share of the planned candidates that were scored, None where nothing was planned.
    ``in_budget_share`` counts answers within budget + max(5 ms, 2 %).
    """

    candidates: str
    budget_ms: float
    documents: str
    warm_share: float
    questions: int
    arms: tuple[tuple[str, int, int], ...]
    quality: Quality
    none: Quality
    signals: Quality
    p50_ms: float
    p95_ms: float
    in_budget_share: float
    coverage: float | None
    fallbacks: int


def first_stage_order(searches: Sequence[Search]) -> dict[str, list[str]]:
    """Question id -> document ids as the first stage has them: what NONE answers."""
    return {search.id: [document.id for document in search.candidates] for search in searches}


def ask(
    client: Client,
    searches: Sequence[Search],
    budget_ms: float,
    spaces: int,
    on_progress: Callable[[], None],
    **options: Any,
) -> list[Call]:
    """Ask every question once, one after the other.

    ``spaces`` are added behind each question: with another number for every pass, neither the result cache nor a kept
    query vector can answer, while the model reads the same tokens. ``options`` are those of `Client.rerank`.
    """
    calls = []
    for search in searches:
        query = search.text + " " * spaces
        started = time.perf_counter()
        ranking = client.rerank(query, search.candidates, budget_ms=budget_ms, use_cache=False, **options)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        calls.append(_call(search.id, ranking, elapsed_ms))
        on_progress()
    return calls


def warm_up(
    client: Client, searches: Sequence[Search], limit_s: float, on_progress: Callable[[], None]
) -> frozenset[str]:
    """Have late interaction read the candidates of all questions, as far as ``limit_s`` seconds go; gives their ids.

    Idle time would do the same by itself; asking for it saves waiting to see whether it is done. Raises
    RerankerOffError or RerankerNotFoundError where there is no such arm.
    """
    read: set[str] = set()
    end = time.monotonic() + limit_s
    for search in searches:
        left_ms = (end - time.monotonic()) * 1e3
        if left_ms <= 0:
            break
        ranking = client.rerank(
            search.text,
            search.candidates,
            budget_ms=min(_WARM_BUDGET_MS, left_ms),
            strategy=Strategy.LATE_INTERACTION,
            rerank_k=len(search.candidates),
            use_cache=False,
        )
        read.update(ranked.document.id for ranked in ranking if ranked.scored)
        on_progress()
    return frozenset(read)


def orders(calls: Sequence[Call]) -> dict[str, Sequence[str]]:
    """Question id -> document ids, best first."""
    return {call.question: call.order for call in calls}


def quality(qrels: Qrels, run: Mapping[str, Sequence[str]]) -> Quality:
    """Of the questions in ``run`` only."""
    judged = {question: qrels[question] for question in run}
    return Quality(
        statistics.fmean(ndcg_at_10(judged, run).values()), statistics.fmean(mrr_at_10(judged, run).values())
    )


def summarise(
    candidates: str,
    documents: str,
    warm_share: float,
    budget_ms: float,
    calls: Sequence[Call],
    qrels: Qrels,
    none: Mapping[str, Sequence[str]],
    signals: Mapping[str, Sequence[str]],
) -> Row:
    """The row of one pass. ``none`` and ``signals`` are the orders to compare with; they may hold more questions."""
    asked = [call.question for call in calls]
    times = [call.elapsed_ms for call in calls]
    planned = [call for call in calls if call.planned_k]
    return Row(
        candidates=candidates,
        budget_ms=budget_ms,
        documents=documents,
        warm_share=warm_share,
        questions=len(calls),
        arms=tuple(
            (arm, k, count) for (arm, k), count in Counter((call.arm, call.planned_k) for call in calls).most_common()
        ),
        quality=quality(qrels, orders(calls)),
        none=quality(qrels, {question: none[question] for question in asked}),
        signals=quality(qrels, {question: signals[question] for question in asked}),
        p50_ms=quantile(times, 0.5),
        p95_ms=quantile(times, 0.95),
        in_budget_share=in_budget(times, budget_ms) / len(times),
        coverage=statistics.fmean(call.scored_k / call.planned_k for call in planned) if planned else None,
        fallbacks=sum(call.fallback for call in calls),
    )


def in_budget(times_ms: Sequence[float], budget_ms: float) -> int:
    """How many answers came within budget + max(5 ms, 2 %)."""
    limit = budget_ms + max(_TOLERANCE_MS, _TOLERANCE_SHARE * budget_ms)
    return sum(elapsed <= limit for elapsed in times_ms)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest of the sorted values (the default of numpy.quantile)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def _call(question: str, ranking: Ranking[Document], elapsed_ms: float) -> Call:
    decision = ranking.decision
    if decision is not None:
        arm = decision.reranker or str(decision.strategy)
    else:  # the client answered by itself; without any candidate there was nothing to ask for
        arm = "fallback" if ranking.fallback else str(Strategy.NONE)
    return Call(
        question=question,
        elapsed_ms=elapsed_ms,
        order=tuple(ranked.document.id for ranked in ranking),
        arm=arm,
        planned_k=decision.planned_k if decision else 0,
        scored_k=decision.scored_k if decision else 0,
        fallback=ranking.fallback,
    )
