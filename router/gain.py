"""Expected quality gain of an arm: the calibrated curve, read at the number of candidates scored."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

from router.profile import GainCurve, Profile, signal_set
from router.traits import Traits

ASSUMED_FROM_K: Final = 10
"""Where an assumed (not calibrated) gain is reached: nDCG@10 sees ten positions."""


@dataclass(frozen=True, slots=True)
class Gain:
    """nDCG@10 gain over first-stage order: what is expected, and the lower end of its confidence interval."""

    expected: float
    lower: float


def expected_gain(profile: Profile, reranker: str, traits: Traits, k: int) -> Gain | None:
    """Gain of scoring the first ``k`` candidates with ``reranker`` ("signals" for SIGNALS); see `read_curve`.

    ``k`` is first cut to the candidates that there are. None: not calibrated for the signals that came along.
    """
    arm = profile.arms.get(reranker)
    curve = None if arm is None else arm.gains.get(signal_set(profile, traits))
    return None if curve is None else Gain(*read_curve(curve, (min(k, traits.documents),))[0])


@functools.lru_cache(maxsize=1024)
def read_curve(curve: GainCurve, ks: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """(expected, lower) at each of ``ks``: linear in log(k) between the points, through (1, 0), flat at the end.

    One candidate cannot be reordered, hence (1, 0); log(k) because the measured curves are close to straight in
    it until their knee. Calibration states the interval at the best k only: elsewhere its width is taken to
    shrink with the gain, because fewer candidates moved means a smaller effect either way.

    Remembered: a profile has few curves, and requests few different numbers of candidates.
    """
    best = -math.inf
    for _, gain in curve.points:
        if gain > best:
            best = gain
    read = []
    for k in ks:
        expected = _interpolate(curve.points, k)
        share = min(1.0, abs(expected) / best) if best > 0.0 else 1.0
        # Written so that the lower end at the best k is the stated one to the last bit.
        read.append((expected, (expected - best * share) + curve.lower * share))
    return tuple(read)


def assumed_curve(gain: float) -> GainCurve:
    """The curve of a reranker whose gain the operator states instead of measuring it: flat from k = 10 on."""
    return GainCurve(((ASSUMED_FROM_K, gain),), gain)


def _interpolate(points: tuple[tuple[int, float], ...], k: int) -> float:
    if k <= 1:
        return 0.0
    left_k, left = 1, 0.0
    for right_k, right in points:
        if k == right_k:
            return right
        if k < right_k:
            return left + (right - left) * math.log(k / left_k) / math.log(right_k / left_k)
        left_k, left = right_k, right
    return left
