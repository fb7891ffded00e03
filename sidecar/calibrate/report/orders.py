"""The order that a caller would get: derived from scores and a profile with the router's own fusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.fusion import fuse, order
from router.profile import SIGNALS_ARM, FusionWeights, Profile, signal_set
from router.promotion import cap_promotions
from router.traits import Traits, extract
from sidecar.calibrate.cascades import scores_at
from sidecar.calibrate.metrics import mrr_at_10, ndcg_at_10
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.calibrate.report.readout import NONE_ARM

# What the pipeline uses where a profile has no weights.
_MODEL_ONLY = FusionWeights(rerank=1.0, signals={})
_RANK_ONLY = FusionWeights(rerank=0.0, signals={"rank": 1.0})
# The measures look at ten places.
_PLACES = 10

Fit = Callable[[Sequence[JudgedList]], Profile]
"""Judged lists -> the profile that calibration would make of them."""


@dataclass(frozen=True, slots=True)
class Query:
    """A judged list as the router and the fusion see it; ``profile`` was fitted without it."""

    judged: JudgedList
    traits: Traits
    signals: tuple[Mapping[str, float], ...]
    profile: Profile


def cross_fitted(lists: Sequence[JudgedList], fit: Fit, seed: int = 0) -> list[Query]:
    """Every query with a profile fitted on the half of the queries that it is not in, in the order of ``lists``.

    So every query tests weights and curves that it had no part in, and none is lost for testing (two-fold
    cross-fitting). Raises ValueError for fewer than two lists.
    """
    if len(lists) < 2:
        raise ValueError(f"{len(lists)} judged queries: at least two are needed, one to fit and one to test")
    shuffled = np.random.default_rng(seed).permutation(len(lists))
    halves = (frozenset(shuffled[::2].tolist()), frozenset(shuffled[1::2].tolist()))
    first, second = (fit([judged for i, judged in enumerate(lists) if i in half]) for half in halves)
    return [with_profile(judged, second if i in halves[0] else first) for i, judged in enumerate(lists)]


def with_profile(judged: JudgedList, profile: Profile) -> Query:
    """One judged list, to be ordered with ``profile``."""
    columns = {name: values.tolist() for name, values in judged.signals.items()}
    signals = tuple(
        {name: column[i] for name, column in columns.items() if math.isfinite(column[i])}
        for i in range(len(judged.ids))
    )
    return Query(judged, extract(judged.query, judged.lengths, signals), signals, profile)


def reorder(query: Query, reranker: str, k: int, promotion_cap: int = 0) -> list[str]:
    """Document ids as the sidecar would answer: the first ``k`` candidates by fused score, the rest behind them.

    ``reranker`` may be ``none`` or ``signals``. Candidates without a score of the reranker keep first-stage order
    behind the scored ones, as in an answer. Raises KeyError for a reranker that the list has no scores of.
    """
    ids = query.judged.ids
    if reranker == NONE_ARM:
        return list(ids)
    count = min(k, len(ids))
    signals = signal_set(query.profile, query.traits)
    arm = query.profile.arms.get(reranker)
    if reranker == SIGNALS_ARM:
        weights = arm.weights.get(signals, _RANK_ONLY) if arm else _RANK_ONLY
        scored, raw = list(range(count)), None
    else:
        weights = arm.weights.get(signals, _MODEL_ONLY) if arm else _MODEL_ONLY
        scores = scores_at(query.judged, reranker, count).tolist()
        scored = [position for position, score in enumerate(scores) if math.isfinite(score)]
        raw = [scores[position] for position in scored]
    fused = fuse(raw, [query.signals[position] for position in scored], scored, weights)
    wished = order(fused, scored, len(ids))
    return [ids[position] for position in (cap_promotions(wished, promotion_cap) if promotion_cap else wished)]


@dataclass(frozen=True, slots=True)
class Quality:
    """nDCG@10 and reciprocal rank at 10 of each query, float64 [queries]."""

    ndcg10: Floats
    rr10: Floats


def measure(queries: Sequence[Query], orders: Sequence[Sequence[str]]) -> Quality:
    """``orders[i]`` answers ``queries[i]``."""
    qrels = {query.judged.query_id: query.judged.grades for query in queries}
    run = {query.judged.query_id: ids[:_PLACES] for query, ids in zip(queries, orders, strict=True)}
    ndcg, rr = ndcg_at_10(qrels, run), mrr_at_10(qrels, run)
    ids = [query.judged.query_id for query in queries]
    return Quality(np.array([ndcg[i] for i in ids]), np.array([rr[i] for i in ids]))
