"""Latency estimators when another profile comes into use."""

from __future__ import annotations

from sidecar.estimates import Estimates
from tests.helpers import Clock, ScriptedReranker, arm_data, profile


def test_arms_with_another_prior_start_again_the_others_keep_what_they_learnt() -> None:
    """Of two arms that both were slower than their priors said, the one whose prior the new profile changes predicts
    by the new prior; the other one still predicts what was measured."""
    clock = Clock()
    rerankers = {name: ScriptedReranker(name) for name in ("same", "other")}
    before = profile(same=arm_data(ms_per_token=0.001), other=arm_data(ms_per_token=0.001))
    after = profile(same=arm_data(ms_per_token=0.001), other=arm_data(ms_per_token=0.5))
    estimates = Estimates(rerankers, before, clock)
    estimates.seed()
    for estimator in estimates.stage.values():
        for _ in range(200):
            estimator.observe(1000, 80.0, clock())
    estimates.use(after)
    estimates.seed()
    assert 70.0 < estimates.stage["same"].predict(1000, clock()).p50_ms < 90.0
    assert abs(estimates.stage["other"].predict(1000, clock()).p50_ms - 500.1) < 1.0
