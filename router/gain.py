"""Expected quality gain of an arm: the calibrated curve, read at the number of candidates scored."""

from __future__ import annotations

import functools
import math
from typing import Final

from router.profile import GainCurve, GainPoint

ASSUMED_FROM_K: Final = 10
"""Where an assumed (not calibrated) gain is reached: nDCG@10 sees ten positions."""


@functools.lru_cache(maxsize=1024)
def read_curve(curve: GainCurve, ks: tuple[int, ...], cut_short: bool = True) -> tuple[tuple[float, float], ...]:
    """(expected, lower) at each of ``ks``: linear in log(k) between the points, through (1, 0), flat at the end.

    One candidate cannot be reordered, hence (1, 0); log(k) because the measured curves are close to straight in
    it until their knee. If the arm may be ``cut_short``, ``lower`` is the smallest of the lower ends up to k: it then
    answers with fewer candidates scored, so all of those counts have to be safe.

    Remembered: a profile has few curves, and requests few different numbers of candidates.
    """
    return tuple(_read(curve.points, k, cut_short) for k in ks)


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
