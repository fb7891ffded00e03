"""Where a curve of nDCG@10 over rerank_k flattens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence


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
