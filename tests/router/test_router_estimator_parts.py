"""What the latency estimator is made of: the forgetting line and the decayed histogram."""

from __future__ import annotations

import math

import pytest

from router.histogram import PRIOR_WEIGHT, RatioHistogram
from router.regression import ForgettingLine


def test_the_line_survives_the_end_of_its_prior() -> None:
    """Two thousand halvings leave nothing of the prior's weight; one request size alone still has a solution."""
    line = ForgettingLine(5.0, 0.05)
    for _ in range(2000):
        line.add(500, 90.0, keep=0.5)
    assert line.at(500) == pytest.approx(90.0, rel=0.02)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([(100, 50.0), (4000, 20.0)], "flat"), ([(1000, 1.0), (4000, 400.0)], "through zero")],
)
def test_coefficients_never_turn_negative(samples: list[tuple[int, float]], expected: str) -> None:
    """Less time for more work gives a constant; a line that would start below zero starts at zero."""
    line = ForgettingLine(5.0, 0.05)
    for _ in range(200):
        for tokens, ms in samples:
            line.add(tokens, ms, keep=0.95)
    assert (line.b == 0.0 and line.a > 0.0) if expected == "flat" else (line.a == 0.0 and line.b > 0.0)


def test_a_single_spike_does_not_tilt_the_line() -> None:
    """One call that takes a hundred times as long, after twenty usual ones, moves the line by less than 5 %."""
    line = ForgettingLine(5.0, 0.05)
    for _ in range(20):
        line.add(1000, 55.0, keep=1.0)
    line.add(1000, 5500.0, keep=1.0)
    assert line.at(1000) == pytest.approx(55.0, rel=0.05)


def test_a_prior_far_too_low_gives_way() -> None:
    """A hundred times too low, its pseudo-observations must not outweigh 150 samples that agree on the truth."""
    line = ForgettingLine(0.05, 0.0005)
    for index in range(150):
        tokens = 500 + 1000 * (index % 4)
        line.add(tokens, 5.0 + 0.05 * tokens, keep=0.98)
    assert line.at(2000) == pytest.approx(105.0, rel=0.05)


def test_censored_beyond_everything_counts_as_at_least() -> None:
    """As many calls cut off at ratio 4 as there are at ratio 1: p95 lies just above 4, within a bucket or two."""
    histogram = RatioHistogram(spread=1.0)
    for _ in range(int(PRIOR_WEIGHT)):
        histogram.add_censored(math.log(4.0), keep=1.0)
    median, p95 = histogram.log_quantiles()
    assert abs(median) <= 0.016
    assert math.log(4.0) < p95 <= math.log(4.0) + 0.06
    assert histogram.total == 2 * PRIOR_WEIGHT


def test_censored_mass_goes_where_longer_calls_were_seen() -> None:
    """Efron: six at ratio 1, six at 8; six cut off at 2 end like the latter: 12 of 18 at 8, the median among them.

    8 falls into bucket 69 of 3 %; the median has 9 - 6 = 3 of its 12 below it: (69 - 0.5 + 3/12) * 0.03.
    """
    histogram = RatioHistogram(spread=1.0)
    for _ in range(6):
        histogram.add(math.log(8.0), keep=1.0)
    for _ in range(6):
        histogram.add_censored(math.log(2.0), keep=1.0)
    assert histogram.log_quantiles()[0] == pytest.approx(68.75 * 0.03)
