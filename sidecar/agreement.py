"""How far two orders of the same candidates agree: RBO, and nDCG with one side's scores as gains."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

PERSISTENCE: Final = 0.9
"""p of `rbo`: the first ten ranks have 86 % of the weight (Webber et al. 2010)."""


def rbo(one: Sequence[Hashable], other: Sequence[Hashable], p: float = PERSISTENCE) -> float:
    """Rank-biased overlap of two rankings of equal length k, extrapolated: 1 for equal ones, 0 for disjoint ones.

    RBO_EXT = X_k/k * p^k + (1-p)/p * sum over d = 1..k of X_d/d * p^d, where X_d is how many items the first d of both
    have in common: Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28(4), 2010, for
    rankings of equal length. Raises ValueError for rankings that are empty, of unequal length or name an item twice,
    and for p outside of (0, 1).
    """
    if not one or len(one) != len(other):
        raise ValueError(f"rankings must be equally long and not empty, got {len(one)} and {len(other)} items")
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie between 0 and 1, got {p}")
    seen_in_one: set[Hashable] = set()
    seen_in_other: set[Hashable] = set()
    overlap = 0
    total = 0.0
    for depth, (left, right) in enumerate(zip(one, other, strict=True), 1):
        if left in seen_in_one or right in seen_in_other:
            raise ValueError(f"rank {depth} repeats an item; a ranking names each once")
        seen_in_one.add(left)
        seen_in_other.add(right)
        overlap += (left in seen_in_other) + (right in seen_in_one) - (left == right)
        total += overlap / depth * p**depth
    return overlap / len(one) * p ** len(one) + (1.0 - p) / p * total


def scaled(scores: Sequence[float]) -> list[float]:
    """Scores as gains between 0 (the lowest) and 1 (the highest); all 0 if they are equal."""
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


def ndcg(ranking: Sequence[int], gains: Sequence[float], depth: int = 10) -> float | None:
    """nDCG of the first ``depth`` positions in ``ranking``: ``gains[position]`` over log2(rank + 1), divided by the
    same of the best order (Jaervelin and Kekaelaeinen, 2002). None where no gain is above 0: every order is as good.
    """
    best = _dcg(sorted(gains, reverse=True)[:depth])
    return _dcg([gains[position] for position in ranking[:depth]]) / best if best > 0.0 else None


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
