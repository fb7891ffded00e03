"""Reading the calibrated gain curves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gain import assumed_curve, read_curve
from router.profile import GainCurve, GainPoint

GAINS = st.floats(-0.2, 0.5)


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, 0.0), (10, 0.04), (20, 0.06), (40, 0.08), (300, 0.08), (2, 0.04 * math.log10(2))],
)
def test_linear_in_log_k(k: int, expected: float) -> None:
    """Through (1, 0); 20 is half-way between 10 and 40 in the logarithm; flat beyond the last point."""
    ((gain, _),) = read_curve(GainCurve((GainPoint(10, 0.04, 0.02), GainPoint(40, 0.08, 0.02))), (k,))
    assert gain == pytest.approx(expected)


def test_every_point_has_its_own_lower_end() -> None:
    """Linear in the logarithm like the gain: 20 is half-way between 10 and 40."""
    curve = GainCurve((GainPoint(10, 0.04, 0.01), GainPoint(40, 0.08, 0.03)))
    read = read_curve(curve, (10, 20, 40))
    assert [expected for expected, _ in read] == pytest.approx([0.04, 0.06, 0.08])
    assert [lower for _, lower in read] == [0.01, 0.01, 0.01]


def test_the_lower_end_is_the_worst_of_all_counts_up_to_k() -> None:
    """Cut short at 10 of 40 the arm may hurt, so planning 40 may hurt as much."""
    curve = GainCurve((GainPoint(10, 0.01, -0.03), GainPoint(40, 0.08, 0.05)))
    read = read_curve(curve, (2, 10, 20, 40))
    assert [lower for _, lower in read] == pytest.approx([-0.03 * math.log10(2), -0.03, -0.03, -0.03])


def test_what_is_never_cut_short_has_the_lower_end_at_k_alone() -> None:
    """Fusing signals is done in one go: that 10 of 40 would hurt is of no concern."""
    curve = GainCurve((GainPoint(10, 0.01, -0.03), GainPoint(40, 0.08, 0.05)))
    read = read_curve(curve, (10, 40, 90), cut_short=False)
    assert [lower for _, lower in read] == [-0.03, 0.05, 0.05]


@given(st.lists(st.tuples(st.integers(2, 300), GAINS, GAINS), min_size=1, max_size=6, unique_by=lambda p: p[0]))
def test_a_larger_k_is_never_safer(drawn: list[tuple[int, float, float]]) -> None:
    """From the first point on the lower end never rises with k, because a cut may leave any smaller count."""
    points = [GainPoint(k, max(pair), min(pair)) for k, *pair in sorted(drawn)]
    ks = tuple(range(points[0].k, 310))
    lowers = [lower for _, lower in read_curve(GainCurve(tuple(points)), ks)]
    assert lowers == sorted(lowers, reverse=True)


def test_an_assumed_gain_is_reached_at_ten() -> None:
    """Flat from k = 10 on, along the logarithm before."""
    gains = [expected for expected, _ in read_curve(assumed_curve(0.1), (1, 5, 10, 100))]
    assert gains == pytest.approx([0.0, 0.1 * math.log10(5), 0.1, 0.1])
