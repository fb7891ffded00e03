"""How far a reranker may lift a candidate: a bound on what a document that flatters the model can gain."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush


def cap_promotions(order: Sequence[int], cap: int) -> tuple[int, ...]:
    """``order`` changed as little as needed for nobody to stand more than ``cap`` places above its first-stage rank.

    ``order[place]`` is the first-stage rank (from 0) of the candidate that the reranker put at ``place``. At each
    place, from the first on, stands the earliest candidate of ``order`` that is still left and may stand there: one
    whose first-stage rank is at most ``place + cap``. There always is one: of the ``place + 1`` candidates with first-
    stage ranks 0 to ``place`` at most ``place`` have been placed. Falling is not bounded. A cap of 0 means none:
    ``order`` as it is. O(n log n).

    Raises ValueError if ``order`` is no permutation of its positions or ``cap`` is negative.
    """
    count = len(order)
    wished = [-1] * count
    for place, rank in enumerate(order):
        if not 0 <= rank < count or wished[rank] >= 0:
            raise ValueError(f"order must hold each first-stage rank from 0 to {count - 1} once")
        wished[rank] = place
    if cap < 0:
        raise ValueError(f"a promotion cap of {cap} places is impossible; it must be 0 (none) or more")
    if cap == 0:
        return tuple(order)
    capped = []
    # Wished places of the candidates that may stand at the current place: one more with every place.
    allowed: list[int] = []
    for place in wished[:cap]:
        heappush(allowed, place)
    for place in range(count):
        if place + cap < count:
            heappush(allowed, wished[place + cap])
        capped.append(order[heappop(allowed)])
    return tuple(capped)
