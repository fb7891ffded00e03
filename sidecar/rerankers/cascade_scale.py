"""One scale for the scores of two stages. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


def best_positions(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Positions of the ``count`` highest scores, best first; ties in the order given."""
    return tuple(sorted(range(len(scores)), key=lambda position: (-scores[position], position))[:count])


def one_scale(first: Sequence[float], top: Sequence[int], second: Sequence[float]) -> tuple[float, ...]:
    """Scores for all candidates on the first stage's scale: ``second[i]`` is the second stage's score of position
    ``top[i]``, and ``top`` are the best of ``first``.

    Who the second stage did not see keeps the first stage's score. The others get the second stage's scores, moved
    linearly into the interval that the first stage's scores of ``top`` span over the best of the rest: the best of
    them gets the highest score of the first stage, the worst stays above the rest by one part in ``len(top)`` of the
    interval. So the second stage's order holds (its ties stay ties), all of ``top`` stand above the rest, and mean and
    deviation over the list remain about those of the first stage, which z-scores and calibrated fusion weights rest
    on. Linear, and not by rank: a document that the second stage finds far better than all others keeps its distance
    when signals are added. Where the first stage sees no difference between ``top`` and the rest there is no interval;
    then it is as wide as the score itself, and 1 at least.
    """
    scores = list(first)
    if not top:
        return tuple(scores)
    chosen = set(top)
    highest = max(first[position] for position in top)
    floor = max(
        (score for position, score in enumerate(first) if position not in chosen),
        # There is no rest: everything was seen twice, and any interval gives the second stage's z-scores.
        default=min(first[position] for position in top),
    )
    step = (highest - floor) / len(top)
    if not floor + step > floor:
        step = max(1.0, abs(floor)) / len(top)
    lowest, best = min(second), max(second)
    for position, score in zip(top, second, strict=True):
        share = (score - lowest) / (best - lowest) if best > lowest else 1.0
        scores[position] = floor + step * (1.0 + (len(top) - 1) * share)
    return tuple(scores)
