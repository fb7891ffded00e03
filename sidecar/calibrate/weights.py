"""Fusion weights from judged queries, and what they gain on queries that they were not chosen on.

The best weights of a few dozen queries are mostly luck: on six public collections, halves redrawn 60 times, the best
point of the grid gave a hybrid list +.040 nDCG@10 on the other half, the mean of many such choices +.044 (one model,
two signals, top 50). Shrinking the choice towards what was best on other collections made it worse (+.034): some want
words, others meaning, and their mean suits neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from sidecar.calibrate.records import Floats

RESAMPLES: Final = 50
REDRAWS: Final = 4


def bagged_choice(values: Floats, grid: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> int:
    """The row of ``grid`` [m, c] nearest to the mean of the rows that are best on resampled queries.

    ``values`` is the measure to maximise, [queries, m]. Bootstrap aggregating (Breiman, Bagging Predictors, 1996).
    The first of equally good rows counts. Raises ValueError without queries.
    """
    if not len(values):
        raise ValueError("no queries to choose weights on")
    drawn = rng.integers(0, len(values), (resamples, len(values)))
    best = np.array([values[rows].mean(axis=0).argmax() for rows in drawn])
    return int(np.abs(grid - grid[best].mean(axis=0)).sum(axis=1).argmin())


def held_out(
    values: Floats, grid: Floats, places: Sequence[int], rng: np.random.Generator, redraws: int = REDRAWS
) -> Floats:
    """What every query gets with weights chosen on the half of the queries that it is not in: [queries, ks].

    ``values`` is [queries, ks, m]; weights are chosen on its mean over the ks at ``places``. The halves are redrawn
    ``redraws`` times and the results averaged. Raises ValueError for fewer than two queries.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} queries cannot be halved; weights need two at least")
    target = values[:, list(places)].mean(axis=1)
    total = np.zeros(values.shape[:2])
    for _ in range(redraws):
        shuffled = rng.permutation(count)
        one, other = shuffled[: count // 2], shuffled[count // 2 :]
        for fitted, checked in ((one, other), (other, one)):
            total[checked] += values[checked][:, :, bagged_choice(target[fitted], grid, rng)]
    return total / redraws
