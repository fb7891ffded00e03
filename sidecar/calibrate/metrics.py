"""How good an order is (nDCG@10, MRR@10), and whether one order is really better than another.

The measures come from ir-measures, so that the figures are comparable with published ones: nDCG with linear gains and
a log2 discount (Jaervelin and Kekaelaeinen, 2002), the reciprocal rank of the first document of grade 1 or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "Qrels", "Run", "macro_bootstrap", "mrr_at_10", "ndcg_at_10", "paired_bootstrap"]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade; 0 means judged and not relevant."""
Run = Mapping[str, Sequence[str]]
"""Query id -> document ids, best first."""

CONFIDENCE = 0.95
_CHUNK = 1000  # resamples held in memory at once


class Interval(NamedTuple):
    """A mean difference with its 95 % bootstrap interval and two-sided p value."""

    mean: float
    low: float
    high: float
    p: float


def ndcg_at_10(qrels: Qrels, run: Run) -> dict[str, float]:
    """nDCG@10 of every query of `qrels`, in its order; 0.0 where `run` has no such query.

    Raises ValueError when a ranking names a document twice.
    """
    import ir_measures

    return _per_query(ir_measures.nDCG @ 10, qrels, run)


def mrr_at_10(qrels: Qrels, run: Run) -> dict[str, float]:
    """Reciprocal rank at 10 of every query of `qrels`, in its order (its mean is MRR@10); otherwise as `ndcg_at_10`."""
    import ir_measures

    return _per_query(ir_measures.RR @ 10, qrels, run)


def _per_query(measure: Any, qrels: Qrels, run: Run) -> dict[str, float]:
    import ir_measures

    scored = {}
    for query, ranking in run.items():
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"run[{query!r}] names a document twice: deduplicate the ranking first")
        # The measures sort by score; distinct descending scores keep the given order.
        scored[query] = {document: float(-rank) for rank, document in enumerate(ranking)}
    plain = {query: dict(grades) for query, grades in qrels.items()}
    values = {m.query_id: float(m.value) for m in ir_measures.iter_calc([measure], plain, scored)}
    return {query: values.get(query, 0.0) for query in qrels}


def paired_bootstrap(
    a: Sequence[float] | NDArray[np.float64],
    b: Sequence[float] | NDArray[np.float64],
    samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of `a - b` over queries, its percentile interval and p, resampling queries with replacement.

    `a[i]` and `b[i]` belong to the same query. p is twice the smaller share of resampled means on either side of
    zero, with one added to each count (Davison and Hinkley, 1997), so it is never 0. Raises ValueError when the
    lengths differ or are zero, or `samples` < 1.
    """
    return macro_bootstrap([(a, b)], samples=samples, seed=seed)


def macro_bootstrap(
    groups: Sequence[tuple[Sequence[float] | NDArray[np.float64], Sequence[float] | NDArray[np.float64]]],
    samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """As `paired_bootstrap`, for the unweighted mean over groups (collections); queries are resampled within each."""
    if samples < 1:
        raise ValueError(f"samples is {samples}: at least 1 is needed")
    if not groups:
        raise ValueError("no groups to compare")
    differences = [_difference(a, b) for a, b in groups]
    means = np.concatenate(list(_resampled_means(differences, samples, seed)))
    mean = float(np.mean([d.mean() for d in differences]))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Interval(mean, float(low), float(high), min(1.0, 2 * (side + 1) / (samples + 1)))


def _difference(
    a: Sequence[float] | NDArray[np.float64], b: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape or not left.size:
        raise ValueError(f"a and b must be two equally long, non-empty lists: got {left.shape} and {right.shape}")
    return left - right


def _resampled_means(
    differences: Sequence[NDArray[np.float64]], samples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    for start in range(0, samples, _CHUNK):
        count = min(_CHUNK, samples - start)
        parts = [d[rng.integers(0, d.size, (count, d.size))].mean(axis=1) for d in differences]
        yield np.mean(parts, axis=0)
