"""A gain measured on few queries, moved towards what the same arm gained on other collections.

Empirical Bayes with normal errors (Efron and Morris, Data Analysis Using Stein's Estimator, 1975): the true gain of a
new collection is taken to be drawn from N(mu, tau^2), the measured mean from N(true gain, s^2 / n). Then the true gain
has mean ``B mu + (1 - B) measured`` and variance ``(1 - B) s^2 / n`` with ``B = (s^2 / n) / (s^2 / n + tau^2)``. mu is
the mean over J other collections, tau^2 the variance between them by the method of moments (DerSimonian and Laird,
1986), times 1 + 1/J because mu is itself an estimate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.calibrate.records import Floats

FEWEST_COLLECTIONS: Final = 3
"""Fewer say nothing about how much collections differ."""


class Estimate(NamedTuple):
    """A mean gain and the variance of that mean."""

    mean: float
    variance: float


class Belief(NamedTuple):
    """What is believed about a gain, and its standard deviation. ``lower`` is one of them below it.

    One standard deviation: a one-sided bound of 84 %, the same yardstick as the one-standard-error rule for k. With the
    16 to 40 queries that small collections have, a 95 % bound switches good arms off: it cost .009 macro nDCG@10 over
    BM25 on six public collections, and no collection's mean got worse without it.
    """

    mean: float
    deviation: float

    @property
    def lower(self) -> float:
        return self.mean - self.deviation


def estimate(gains: Floats) -> Estimate:
    """Mean over queries [n] with its sampling variance. Raises ValueError for fewer than two queries."""
    if len(gains) < 2:
        raise ValueError(f"{len(gains)} queries have no variance; two are needed at least")
    return Estimate(float(gains.mean()), float(gains.var(ddof=1)) / len(gains))


def prior(others: Sequence[Estimate]) -> Estimate | None:
    """mu and tau^2 for a new collection; None for fewer than `FEWEST_COLLECTIONS`."""
    if len(others) < FEWEST_COLLECTIONS:
        return None
    means = [other.mean for other in others]
    noise = statistics.fmean(other.variance for other in others)
    between = max(0.0, statistics.variance(means) - noise)
    return Estimate(statistics.fmean(means), between * (1 + 1 / len(others)))


def shrink(measured: Estimate, towards: Estimate | None) -> Belief:
    """The posterior mean and deviation; the measurement itself where there is nothing to shrink towards."""
    if towards is None or measured.variance == 0.0:
        return Belief(measured.mean, math.sqrt(measured.variance))
    share = measured.variance / (measured.variance + towards.variance)
    mean = share * towards.mean + (1 - share) * measured.mean
    return Belief(mean, math.sqrt((1 - share) * measured.variance))
