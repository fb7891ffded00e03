"""The latency estimator: exact where it can be, statistical on seeded noise where it cannot."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from router.latency import IDLE_HALF_LIFE_S, LatencyEstimator, LatencyPrior

PRIOR = LatencyPrior(base_ms=5.0, ms_per_token=0.05, spread=1.5)


def run(
    estimator: LatencyEstimator,
    samples: int,
    truth_ms: Callable[[int], float],
    sigma: float,
    seed: int = 7,
) -> list[tuple[float, float, float, float]]:
    """Feed lognormal noise around ``truth_ms(tokens)``; return (truth, actual, p50, p95), predicted beforehand."""
    source = random.Random(seed)
    seen = []
    for _ in range(samples):
        tokens = source.randrange(50, 6000)
        truth = truth_ms(tokens)
        actual = truth * math.exp(source.gauss(0.0, sigma))
        prediction = estimator.predict(tokens, now=0.0)
        seen.append((truth, actual, prediction.p50_ms, prediction.p95_ms))
        estimator.observe(tokens, actual, now=0.0)
    return seen


def coverage(seen: list[tuple[float, float, float, float]]) -> float:
    """Share of samples at or under their predicted p95."""
    return sum(actual <= p95 for _, actual, _, p95 in seen) / len(seen)


def test_starts_at_the_prior() -> None:
    """Before any sample: p50 = base + rate * tokens, p95 = spread * p50 (within the 3 % of a bucket)."""
    prediction = LatencyEstimator(PRIOR).predict(1000, now=123.0)
    assert prediction.p50_ms == pytest.approx(55.0)
    assert prediction.p95_ms == pytest.approx(82.5, rel=0.03)


def test_recovers_the_line() -> None:
    """From a prior that is wrong in both coefficients, 2,000 samples at 10 % noise give a = 20 ms and b = 0.01 ms."""
    estimator = LatencyEstimator(PRIOR)
    run(estimator, 2000, lambda tokens: 20.0 + 0.01 * tokens, sigma=0.1)
    base = estimator.predict(0, now=0.0).p50_ms
    rate = (estimator.predict(4000, now=0.0).p50_ms - base) / 4000
    assert base == pytest.approx(20.0, rel=0.05)
    assert rate == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5])
def test_p95_covers_95_percent_in_steady_state(sigma: float) -> None:
    """Within two points, out of sample: every prediction was made before its sample was seen."""
    seen = run(LatencyEstimator(PRIOR), 6000, lambda tokens: 5.0 + 0.05 * tokens, sigma)
    assert coverage(seen[1000:]) == pytest.approx(0.95, abs=0.02)


def test_p95_is_right_to_half_a_point() -> None:
    """Of 20,000 calls in steady state 94.5 to 95.5 % end by their predicted p95."""
    seen = run(LatencyEstimator(PRIOR), 21_000, lambda tokens: 5.0 + 0.05 * tokens, sigma=0.25)
    assert coverage(seen[1000:]) == pytest.approx(0.95, abs=0.005)


def test_p95_is_right_again_300_calls_after_a_slowdown() -> None:
    """The machine gets 1.6 times slower, ten times over: of calls 301 to 1,300 after that, 94.5 to 95.5 % in all."""
    after: list[tuple[float, float, float, float]] = []
    for seed in range(10):
        estimator = LatencyEstimator(PRIOR)
        run(estimator, 1500, lambda tokens: 5.0 + 0.05 * tokens, sigma=0.25, seed=seed)
        after += run(estimator, 1300, lambda tokens: 1.6 * (5.0 + 0.05 * tokens), sigma=0.25, seed=100 + seed)[300:]
    assert coverage(after) == pytest.approx(0.95, abs=0.005)


def test_p95_covers_with_spikes() -> None:
    """3 % of the calls take four times as long: still within two points."""
    source = random.Random(5)
    spiky = run(
        LatencyEstimator(PRIOR), 6000, lambda tokens: 55.0 * (4.0 if source.random() < 0.03 else 1.0), sigma=0.2
    )
    assert coverage(spiky[1000:]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("factor", [1.6, 1 / 1.6])
def test_adapts_to_a_new_level_within_300_samples(factor: float) -> None:
    """After 3,000 steady samples everything takes 1.6 times as long (or as short): p50 within 10 %, p95 covers."""
    estimator = LatencyEstimator(PRIOR)
    run(estimator, 3000, lambda tokens: 5.0 + 0.05 * tokens, sigma=0.25)
    after = run(estimator, 1500, lambda tokens: factor * (5.0 + 0.05 * tokens), sigma=0.25, seed=8)
    truth, _, p50_ms, _ = after[300]
    assert p50_ms == pytest.approx(truth, rel=0.1)
    assert coverage(after[300:]) == pytest.approx(0.95, abs=0.02)


def test_a_wrong_prior_is_forgotten_within_100_samples() -> None:
    """A machine four times slower than the profile's: both quantiles within 10 %, the first misses no longer felt."""
    seen = run(LatencyEstimator(PRIOR), 151, lambda tokens: 4.0 * (5.0 + 0.05 * tokens), sigma=0.1)
    for truth, _, p50_ms, p95_ms in (seen[100], seen[150]):
        assert p50_ms == pytest.approx(truth, rel=0.1)
        assert p95_ms == pytest.approx(truth * math.exp(1.645 * 0.1), rel=0.1)


def test_requests_of_one_size_keep_the_line_sane() -> None:
    """With no variety to fit a slope to, the level is learnt and no coefficient turns negative."""
    estimator = LatencyEstimator(PRIOR)
    for _ in range(5000):
        estimator.observe(500, 90.0, now=0.0)
    assert estimator.predict(500, now=0.0).p50_ms == pytest.approx(90.0, rel=0.02)
    predicted = [estimator.predict(tokens, now=0.0).p50_ms for tokens in (0, 500, 5000)]
    assert 0.0 <= predicted[0] <= predicted[1] < predicted[2]


def test_idleness_decays_towards_the_prior() -> None:
    """An arm that was ten times too slow: half of that is forgotten after a half-life, nearly all after ten."""
    estimator = LatencyEstimator(PRIOR)
    run(estimator, 1000, lambda tokens: 10.0 * (5.0 + 0.05 * tokens), sigma=0.1)
    slow, half, later, latest = (
        estimator.predict(1000, now=lives * IDLE_HALF_LIFE_S).p50_ms for lives in (0, 1, 3, 10)
    )
    assert slow == pytest.approx(550.0, rel=0.05)
    assert slow > half > later > latest
    assert latest == pytest.approx(55.0, rel=0.05)


def test_predicting_teaches_nothing() -> None:
    """Looking ahead in time, and back again, leaves no trace: decisions can be replayed."""
    watched, untouched = LatencyEstimator(PRIOR), LatencyEstimator(PRIOR)
    for estimator in (watched, untouched):
        run(estimator, 200, lambda tokens: 100.0 + 0.1 * tokens, sigma=0.3)
    for now in (10.0, 500.0, 5.0):
        watched.predict(100, now)
    assert watched.predict(100, now=60.0) == untouched.predict(100, now=60.0)


def test_timeouts_raise_the_tail() -> None:
    """One call in ten is cut off at 4 times the usual: p95 rises beyond that bound, the median hardly moves."""
    estimator = LatencyEstimator(PRIOR)
    for index in range(1000):
        if index % 10 == 0:
            estimator.observe_timeout(1000, 220.0, now=0.0)
        else:
            estimator.observe(1000, 55.0, now=0.0)
    prediction = estimator.predict(1000, now=0.0)
    assert prediction.p95_ms > 220.0
    assert prediction.p50_ms == pytest.approx(55.0, rel=0.2)


def test_a_timeout_below_the_prediction_is_shared_out_above_it() -> None:
    """Cut off at half of what is usual, a call says nothing against the usual: the median stays."""
    estimator = LatencyEstimator(PRIOR)
    for index in range(1000):
        if index % 3 == 0:
            estimator.observe_timeout(1000, 27.0, now=0.0)
        else:
            estimator.observe(1000, 55.0, now=0.0)
    assert estimator.predict(1000, now=0.0).p50_ms == pytest.approx(55.0, rel=0.03)


@pytest.mark.parametrize(("tokens", "ms"), [(-1, 5.0), (10, -1.0), (10, math.nan), (10, math.inf)])
def test_refuses_impossible_samples(tokens: int, ms: float) -> None:
    """One bad sample must not poison the sums for good."""
    estimator = LatencyEstimator(PRIOR)
    for teach in (estimator.observe, estimator.observe_timeout):
        with pytest.raises(ValueError, match=r"negative|finite"):
            teach(tokens, ms, 0.0)
    assert estimator.predict(1000, now=0.0) == LatencyEstimator(PRIOR).predict(1000, now=0.0)


@pytest.mark.parametrize("prior", [(-1.0, 0.1, 1.5), (1.0, math.inf, 1.5), (1.0, 0.1, 0.5)])
def test_refuses_impossible_priors(prior: tuple[float, float, float]) -> None:
    """Negative or infinite times, or a p95 below the median."""
    with pytest.raises(ValueError, match="must be finite and at least"):
        LatencyPrior(*prior)


def test_one_spike_among_the_first_samples_shuts_no_arm_out() -> None:
    """A warm-up of six runs, one of which took 20 times as long: p95 is the prior's, not the spike's."""
    estimator = LatencyEstimator(PRIOR)
    for factor in (1.0, 1.1, 20.0, 0.9, 1.0, 1.05):
        estimator.observe(1000, 55.0 * factor, now=0.0)
    assert estimator.predict(1000, now=0.0).p95_ms < 2 * 55.0
