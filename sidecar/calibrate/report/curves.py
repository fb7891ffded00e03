"""nDCG@10 over rerank_k: where it flattens, and how few candidates are enough."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from sidecar.calibrate.records import Floats


def knee(points: Sequence[tuple[int, float]]) -> int | None:
    """The k where the curve bends most, by kneed (Satopaa et al., 2011); None where it sees no bend.

    ``points`` start with (1, nDCG@10 of the first stage): one candidate cannot be reordered.
    """
    ks, values = [k for k, _ in points], [value for _, value in points]
    if len(points) < 3 or max(values) <= values[0]:
        return None
    from kneed import KneeLocator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no knee found" is an answer here
        found = KneeLocator(ks, values, curve="concave", direction="increasing").knee
    return None if found is None or found <= 1 else int(found)


def enough(per_query: Mapping[int, Floats]) -> int:
    """The smallest k whose mean is within one standard error of the best k's mean.

    ``per_query[k]`` is nDCG@10 of every query. The error is of the paired difference to the best k, so that what
    makes queries differ cancels out (the one-standard-error rule of Breiman et al., 1984).
    """
    best = max(sorted(per_query), key=lambda k: float(per_query[k].mean()))
    for k in sorted(per_query):
        lost = per_query[best] - per_query[k]
        error = float(lost.std(ddof=1)) / np.sqrt(lost.size) if lost.size > 1 else 0.0
        if float(lost.mean()) <= error:
            return k
    return best
