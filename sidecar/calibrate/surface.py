"""nDCG@10 of reordered lists under many fusion weights at once: what weights and gains are fitted on.

The order is the one that `router.fusion` gives with the same weights, and nDCG is the one of
`sidecar.calibrate.metrics` (linear gains, log2 discount); both are tested against each other. They are computed again
here because a fit looks at tens of weightings, candidate counts and redraws of the queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.profile import RANK_SIGNAL
from sidecar.calibrate.cascades import scores_at
from sidecar.calibrate.records import Floats, JudgedList

RERANK = "rerank"
"""The column of the reranker's own score."""
_TOP = 10
_DISCOUNTS = 1.0 / np.log2(np.arange(2, _TOP + 2))


def simplex(columns: int, steps: int) -> Floats:
    """Every way to share out ``steps`` equal parts among ``columns``, as weights that sum to 1: [m, columns]."""
    shares = itertools.product(range(steps + 1), repeat=columns)
    return np.array([share for share in shares if sum(share) == steps], np.float64) / steps


def first_stage_ndcg(lists: Sequence[JudgedList]) -> Floats:
    """nDCG@10 of the candidates as they stand: [queries]."""
    values = []
    for judged in lists:
        grades = _grades(judged)[:_TOP]
        values.append(float(grades @ _DISCOUNTS[: len(grades)]) / _ideal(judged.grades))
    return np.array(values, np.float64)


def surface(
    lists: Sequence[JudgedList], columns: Sequence[str], reranker: str, weights: Floats, ks: Sequence[int]
) -> Floats:
    """nDCG@10 after the first k candidates were reordered by each row of ``weights`` [m, c]: [queries, ks, m].

    ``columns`` name what the weights belong to: `RERANK` (the raw score of ``reranker``), a signal, or ``rank``.
    Candidates without a raw score are not scored: they follow in first-stage order, as in the pipeline.
    """
    found = np.empty((len(lists), len(ks), len(weights)))
    for row, judged in enumerate(lists):
        grades, ideal = _grades(judged), _ideal(judged.grades)
        for place, k in enumerate(ks):
            raw = scores_at(judged, reranker, k) if RERANK in columns else np.zeros(min(k, len(grades)))
            scored = np.flatnonzero(np.isfinite(raw))
            values = np.array([_column(judged, name, raw, scored) for name in columns])
            best = scored[np.argsort(-(weights @ values), axis=1, kind="stable")[:, :_TOP]]
            # Fewer than ten were scored: the others follow as they stand.
            rest = np.setdiff1d(np.arange(len(grades)), scored)[: _TOP - best.shape[1]]
            shown = np.concatenate([grades[best], np.tile(grades[rest], (len(weights), 1))], axis=1)
            found[row, place] = shown @ _DISCOUNTS[: shown.shape[1]] / ideal
    return found


def _column(judged: JudgedList, name: str, raw: Floats, scored: NDArray[np.intp]) -> Floats:
    """z of one column over the scored candidates; a missing signal counts as its reciprocal rank's z."""
    rank = _z(1.0 / (scored.astype(np.float64) + 1.0))
    if name == RANK_SIGNAL:
        return rank
    values = (raw if name == RERANK else judged.signals[name])[scored]
    carried = np.isfinite(values)
    if not carried.any():
        return np.zeros(len(scored))  # nobody carries it: left out of the sum
    filled = rank.copy()
    filled[carried] = _z(values[carried])
    return filled


def _z(values: Floats) -> Floats:
    if not values.size or values.min() == values.max():
        return np.zeros(values.shape)
    scores: Floats = (values - values.mean()) / values.std()
    return scores


def _grades(judged: JudgedList) -> Floats:
    return np.array([max(0, judged.grades.get(document, 0)) for document in judged.ids], np.float64)


def _ideal(grades: Mapping[str, int]) -> float:
    """DCG@10 of the best order there could be; 1 where nothing is relevant, so that every nDCG is 0."""
    best = sorted((max(0, grade) for grade in grades.values()), reverse=True)[:_TOP]
    return float(np.array(best, np.float64) @ _DISCOUNTS[: len(best)]) or 1.0
