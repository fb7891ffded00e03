"""Latency priors from samples, with exact lines."""

from __future__ import annotations

import pytest

from router.latency import LatencyEstimator
from sidecar.calibrate.latency_fit import latency_prior
from sidecar.calibrate.records import LatencySample


def sample(ms: float, tokens: int, k: int = 10, warm: bool = True) -> LatencySample:
    return LatencySample("m", k, warm, ms + 2.0, ms, tokens, k, 0)


def test_a_line_is_found_again() -> None:
    """5 ms + 0.1 ms a token, no noise: that line, and no spread."""
    prior = latency_prior([sample(5 + 0.1 * 20 * k, 20 * k, k) for k in (10, 25, 50)])
    assert (prior.base_ms, prior.ms_per_token, prior.spread) == pytest.approx((5.0, 0.1, 1.0))


def test_one_spike_does_not_tilt_the_line() -> None:
    """The medians of both sizes are on the line; the spike counts in the spread alone."""
    rows = [sample(1 + 0.1 * tokens, tokens, k) for k, tokens in ((10, 100), (50, 500)) for _ in range(20)]
    prior = latency_prior([*rows, sample(900.0, 500, 50)])
    assert (prior.base_ms, prior.ms_per_token) == pytest.approx((1.0, 0.1))


def test_spread_is_the_95th_percentile_over_the_median() -> None:
    """Of 21 requests 19 take 10 ms, the median, and two take 30; the 95th percentile is the second slowest."""
    rows = [sample(10.0, 100)] * 19 + [sample(30.0, 100)] * 2
    assert latency_prior(rows).spread == pytest.approx(3.0)


def test_what_is_fitted_is_what_is_learnt_later() -> None:
    """1.5 ms + 0.05 ms a token, warm and cold: an estimator that begins with this line and is then taught the very same
    requests predicts what it did before, for a kept document as for 1,000 new tokens."""
    rows = [sample(1.5 + 0.05 * tokens, tokens, k) for k, tokens in ((10, 1), (50, 4), (10, 400), (50, 2000))]
    prior = latency_prior(rows)
    assert (prior.base_ms, prior.ms_per_token) == pytest.approx((1.5, 0.05))
    estimator = LatencyEstimator(prior)
    for one in rows * 10:
        estimator.observe(one.tokens, one.stage_ms, 0.0)
    for tokens in (1, 1000):
        assert estimator.predict(tokens, 0.0).p50_ms == pytest.approx(1.5 + 0.05 * tokens, rel=0.02)


def test_one_size_gives_a_constant() -> None:
    """Nothing says what a token costs."""
    prior = latency_prior([sample(8.0, 100), sample(8.0, 100)])
    assert (prior.base_ms, prior.ms_per_token) == (8.0, 0.0)


def test_coefficients_are_never_negative() -> None:
    """Less time for more work is noise; so is less than no time for no work."""
    falling = latency_prior([sample(9.0, 100, 10), sample(8.0, 200, 25)])
    assert falling.ms_per_token == 0.0
    assert 8.0 < falling.base_ms < 9.0
    steep = latency_prior([sample(1.0, 100, 10), sample(10.0, 200, 25)])
    assert steep.base_ms == 0.0
    assert 0.01 < steep.ms_per_token < 0.05


def test_no_samples_are_refused() -> None:
    """A guess would be taken for a measurement."""
    with pytest.raises(ValueError, match="no latency samples"):
        latency_prior([])
