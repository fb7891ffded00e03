"""From scores to an order: fusion of the rerank score with the first-stage signals.

Holds invariants 3 (the output is a permutation of the input positions; nothing scored = first-stage order)
and 4 (ties keep first-stage order; scores that are not finite, missing or surplus are refused) of the
design's section 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from router.profile import RANK_SIGNAL, FusionWeights


def z_scores(values: Sequence[float]) -> list[float]:
    """Standard scores ``(v - mean) / std`` with the population standard deviation; all zeros where nothing
    varies.

    Equal values get equal scores, so ties survive. Finite input of any magnitude gives finite output.
    """
    # Compared, not computed: the rounded variance of equal values may be slightly more than zero.
    if not values or min(values) == max(values):
        return [0.0] * len(values)
    # Squares of values near the end of the float range would overflow; standard scores do not depend on the
    # scale.
    scale = max(map(abs, values))
    scaled = [value / scale for value in values]
    mean = math.fsum(scaled) / len(scaled)
    centred = [value - mean for value in scaled]
    deviation = math.sqrt(math.fsum(value * value for value in centred) / len(centred))
    if deviation == 0.0:
        return [0.0] * len(values)
    return [value / deviation for value in centred]


def fuse(
    rerank: Sequence[float] | None,
    signals: Sequence[Mapping[str, float]],
    ranks: Sequence[int],
    weights: FusionWeights,
) -> list[float]:
    """Fused score per scored candidate: the sum of w_i * z_i over the rerank score and the signals.

    All lists run over the scored set only: ``signals[i]`` and the first-stage rank ``ranks[i]`` (from 0)
    belong to ``rerank[i]``; ``rerank`` is None for SIGNALS, where no model ran. z is taken over the
    candidates that carry the signal; a candidate without it (or with a value that is not finite) gets the z
    of its reciprocal rank 1/(rank+1) over the scored set instead, which is what its place in the list says
    about it. A signal that nobody carries is left out. Raises ValueError if the lists differ in length.
    """
    count = len(ranks)
    if len(signals) != count or (rerank is not None and len(rerank) != count):
        scored = "no" if rerank is None else str(len(rerank))
        raise ValueError(
            f"{scored} rerank scores, {len(signals)} signals, {count} ranks: pass one of each per candidate"
        )
    rank_z = z_scores([1.0 / (rank + 1) for rank in ranks])
    fused = [0.0] * count
    if rerank is not None and weights.rerank != 0.0:
        fused = [weights.rerank * z for z in z_scores(rerank)]
    # Sorted, so that the order of keys in a profile cannot change the last bit of a sum.
    for name in sorted(weights.signals):
        weight = weights.signals[name]
        column = rank_z if name == RANK_SIGNAL else _signal_z(name, signals, rank_z)
        if weight != 0.0 and column is not None:
            fused = [total + weight * z for total, z in zip(fused, column, strict=True)]
    return fused


def _signal_z(name: str, signals: Sequence[Mapping[str, float]], rank_z: Sequence[float]) -> list[float] | None:
    """z of one signal, the gaps filled from ``rank_z``; None if no candidate carries it."""
    values = [carried.get(name, math.nan) for carried in signals]
    carriers = [index for index, value in enumerate(values) if math.isfinite(value)]
    if not carriers:
        return None
    column = list(rank_z)
    for index, z in zip(carriers, z_scores([values[index] for index in carriers]), strict=True):
        column[index] = z
    return column


def order(fused: Sequence[float], scored: Sequence[int], total: int) -> list[int]:
    """Positions 0..total-1, best first: the scored ones by fused score, then the rest in first-stage order.

    ``scored[i]`` is the position (= first-stage rank) that ``fused[i]`` belongs to. Always a permutation of
    ``range(total)`` (invariant 3); equal scores keep first-stage order (invariant 4). Raises ValueError if
    the lists differ in length, a position is out of range or given twice, or a score is not finite.
    """
    if not all_finite(fused, len(scored)):
        raise ValueError(f"{len(fused)} fused scores for {len(scored)} scored positions: need one finite score each")
    known = set(scored)
    if len(known) != len(scored) or not all(0 <= position < total for position in known):
        raise ValueError(f"scored positions must be distinct and within 0..{total - 1}")
    best_first = [position for _, position in sorted(zip((-score for score in fused), scored, strict=True))]
    return best_first + [position for position in range(total) if position not in known]


def all_finite(scores: Sequence[float], expected: int) -> bool:
    """Whether there are exactly ``expected`` scores and none is NaN or infinite (invariant 4)."""
    return len(scores) == expected and all(map(math.isfinite, scores))
