"""Empirical Bayes by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.calibrate.pooled import Pooled, PooledCollection, PooledGain
from sidecar.calibrate.shrink import Estimate, estimate, prior, shrink


def test_the_variance_of_a_mean() -> None:
    """0, 0.1, 0.2: variance 0.01 over three queries."""
    assert estimate(np.array([0.0, 0.1, 0.2])) == (pytest.approx(0.1), pytest.approx(0.01 / 3))


def test_the_prior_of_three_collections() -> None:
    """Means 0, 0.1, 0.2 vary by 0.01, of which 0.004 is sampling noise; for a new one times 1 + 1/3."""
    found = prior([Estimate(mean, 0.004) for mean in (0.0, 0.1, 0.2)])
    assert found == (pytest.approx(0.1), pytest.approx(0.006 * 4 / 3))


def test_collections_that_differ_by_no_more_than_noise() -> None:
    """The variance between them is never negative: then everything is shrunk to the mean."""
    found = prior([Estimate(mean, 0.5) for mean in (0.0, 0.1, 0.2)])
    assert found == (pytest.approx(0.1), 0.0)
    assert shrink(Estimate(0.3, 0.01), found) == (pytest.approx(0.1), 0.0)


def test_two_collections_are_no_prior() -> None:
    """They say nothing about how much collections differ."""
    assert prior([Estimate(0.1, 0.0), Estimate(0.2, 0.0)]) is None


def test_as_sure_of_the_one_as_of_the_other() -> None:
    """Equal variances: half-way, and half the variance is left."""
    belief = shrink(Estimate(0.3, 0.0004), Estimate(0.1, 0.0004))
    assert belief == (pytest.approx(0.2), pytest.approx(math.sqrt(0.0002)))
    assert belief.lower == pytest.approx(0.2 - math.sqrt(0.0002))


def test_three_times_as_sure_of_the_measurement() -> None:
    """B = s2 / (s2 + tau2) = 0.25: a quarter of the way, three quarters of the variance."""
    assert shrink(Estimate(0.3, 0.0001), Estimate(0.1, 0.0003)) == (
        pytest.approx(0.25),
        pytest.approx(math.sqrt(0.000075)),
    )


def test_without_a_prior_the_measurement_stands() -> None:
    """Its standard error is the deviation."""
    assert shrink(Estimate(0.3, 0.0004), None) == (0.3, pytest.approx(0.02))


VARIANCE = st.floats(1e-8, 1.0)


@given(st.floats(-1, 1), VARIANCE, st.floats(-1, 1), VARIANCE)
def test_between_the_two_and_surer_than_either(mean: float, variance: float, mu: float, tau2: float) -> None:
    """The belief lies between measurement and prior, and its variance is below both."""
    belief = shrink(Estimate(mean, variance), Estimate(mu, tau2))
    assert min(mean, mu) - 1e-12 <= belief.mean <= max(mean, mu) + 1e-12
    assert belief.deviation**2 <= min(variance, tau2) * (1 + 1e-9)


def test_a_collection_is_not_its_own_prior() -> None:
    """Collections over the same documents are left out; only the same arm, first stage and signals count, at the
    deepest k that was measured."""

    def collection(name: str, mean: float) -> PooledCollection:
        gain = PooledGain("bm25", "m", "bm25", 10, mean, 0.0)
        return PooledCollection(name, f"digest of {name}", 40, (gain,))

    pooled = Pooled(tuple(collection(name, mean) for name, mean in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.8))))
    found = pooled.without("digest of d").prior("bm25", "m", "bm25", 10)
    assert found == (pytest.approx(0.2), pytest.approx(0.01 * 4 / 3))
    assert pooled.prior("bm25+dense", "m", "bm25", 10) is None
    assert pooled.prior("bm25", "m", "bm25", 25) == pooled.prior("bm25", "m", "bm25", 10)
    assert pooled.prior("bm25", "m", "bm25", 9) is None
