"""Reading the calibrated gain curves."""

from __future__ import annotations

import math

import pytest
from router_cases import arm_profile, make_profile, make_traits

from router.arms import Strategy
from router.gain import assumed_curve, expected_gain, read_curve
from router.profile import GainCurve

PROFILE = make_profile({"ce": arm_profile(Strategy.CROSS_ENCODER, ((10, 0.04), (40, 0.08)), 0.02)})


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, 0.0), (10, 0.04), (20, 0.06), (40, 0.08), (300, 0.08), (2, 0.04 * math.log10(2))],
)
def test_linear_in_log_k(k: int, expected: float) -> None:
    """Through (1, 0); 20 is half-way between 10 and 40 in the logarithm; flat beyond the last point."""
    gain = expected_gain(PROFILE, "ce", make_traits(documents=1000), k)
    assert gain is not None
    assert gain.expected == pytest.approx(expected)


def test_k_is_cut_to_the_documents() -> None:
    """Scoring 40 of 10 candidates is scoring 10."""
    traits = make_traits(documents=10)
    assert expected_gain(PROFILE, "ce", traits, 40) == expected_gain(PROFILE, "ce", traits, 10)


def test_the_interval_narrows_with_the_gain() -> None:
    """At the best k the stated bound, to the last bit; at half the gain, half the width below it."""
    (half, whole) = read_curve(GainCurve(((10, 0.04), (40, 0.08)), 0.02), (10, 40))
    assert half == pytest.approx((0.04, 0.01))
    assert whole == (0.08, 0.02)


def test_not_calibrated_is_none() -> None:
    """No entry for the reranker, or for the signals that came along, is not the same as no gain."""
    assert expected_gain(PROFILE, "other", make_traits(), 10) is None
    assert expected_gain(PROFILE, "ce", make_traits(signals=("bm25", "dense")), 10) is None


def test_an_assumed_gain_is_reached_at_ten() -> None:
    """Flat from k = 10 on, along the logarithm before."""
    gains = [expected for expected, _ in read_curve(assumed_curve(0.1), (1, 5, 10, 100))]
    assert gains == pytest.approx([0.0, 0.1 * math.log10(5), 0.1, 0.1])
