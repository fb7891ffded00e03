"""A reranker's scores as grades: its opinion in the place of judgements, asked for or seen in production."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidecar.calibrate.records import Floats

# Documents of a query, on average over the queries, that get this grade or a higher one.
_AT_LEAST = {3: 1, 2: 3, 1: 6}


def grades(scores: Sequence[Floats]) -> list[list[int]]:
    """Grades 0 to 3 for each query's scores, by thresholds over all queries' scores together.

    On average over the queries one document gets 3, two more get 2 and three more get 1; a query whose candidates all
    score low gets none. Equal scores get equal grades, the lowest score and what has none (NaN) always 0.
    """
    pooled = np.sort(np.concatenate(list(scores)))
    pooled = pooled[~np.isnan(pooled)][::-1]
    if not len(pooled):
        return [[0] * len(own) for own in scores]
    thresholds = {
        grade: pooled[min(documents * len(scores), len(pooled)) - 1] for grade, documents in _AT_LEAST.items()
    }

    def grade(score: float) -> int:
        reached = [grade for grade, least in thresholds.items() if score >= least]
        return max(reached, default=0) if score > pooled[-1] else 0

    return [[grade(score) for score in own] for own in scores]
