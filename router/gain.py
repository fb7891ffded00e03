"""Expected quality gain of an arm: the calibrated curve, read at the number of candidates scored, and what the query's
traits change of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Final

from router.profile import GainCurve, GainPoint, TraitSlope
from router.traits import FIGURES, Traits

ASSUMED_FROM_K: Final = 10
"""Where an assumed (not calibrated) gain is reached: nDCG@10 sees ten positions."""
FARTHEST: Final = 2.0
"""Deviations from the mean beyond which a trait counts no further: there were too few such queries to learn from."""


@functools.lru_cache(maxsize=1024)
def read_curve(curve: GainCurve, ks: tuple[int, ...], cut_short: bool = True) -> tuple[tuple[float, float], ...]:
    """(expected, lower) at each of ``ks``: linear in log(k) between the points, through (1, 0), flat at the end.

    One candidate cannot be reordered, hence (1, 0); log(k) because the measured curves are close to straight in
    it until their knee. If the arm may be ``cut_short``, ``lower`` is the smallest of the lower ends up to k: it then
    answers with fewer candidates scored, so all of those counts have to be safe.

    Remembered: a profile has few curves, and requests few different numbers of candidates.
    """
    return tuple(_read(curve.points, k, cut_short) for k in ks)


def trait_gain(slopes: Mapping[str, TraitSlope], traits: Traits) -> float:
    """nDCG@10 that such a query gains more than the mean one: the sum over traits of slope times z.

    z is the trait's distance from its mean in deviations, cut at +-`FARTHEST`.
    """
    total = 0.0
    for name, (mean, deviation, slope) in slopes.items():
        z = (FIGURES[name](traits) - mean) / deviation
        total += slope * max(-FARTHEST, min(FARTHEST, z))
    return total


def shifted(
    gains: Sequence[tuple[float, float]], ks: Sequence[int], curve: GainCurve, by: float
) -> Sequence[tuple[float, float]]:
    """``gains``, read from ``curve`` at ``ks``, moved by what the query's traits add (`trait_gain`).

    In full from the curve's first point on; below it in proportion to log(k), as the curve itself goes to (1, 0).
    """
    if not by:
        return gains
    full = math.log(curve.points[0].k)
    parts = [by * min(1.0, math.log(k) / full) if k > 1 else 0.0 for k in ks]
    return [(gain + part, lower + part) for (gain, lower), part in zip(gains, parts, strict=True)]


def assumed_curve(gain: float) -> GainCurve:
    """The curve of a reranker whose gain the operator states instead of measuring it: flat from k = 10 on."""
    return GainCurve((GainPoint(ASSUMED_FROM_K, gain, gain),))


def _read(points: tuple[GainPoint, ...], k: int, cut_short: bool) -> tuple[float, float]:
    if k <= 1:
        return 0.0, 0.0
    left, safe = GainPoint(1, 0.0, 0.0), math.inf
    for right in points:
        if k < right.k:
            share = math.log(k / left.k) / math.log(right.k / left.k)
            gain = left.gain + (right.gain - left.gain) * share
            return gain, min(safe, left.lower + (right.lower - left.lower) * share)
        left = right
        if cut_short:
            safe = min(safe, right.lower)
    return left.gain, min(safe, left.lower)
