"""How a warm-up sets the level of what a profile says about another machine."""

from __future__ import annotations

import pytest

from sidecar.estimates import Estimates
from tests.helpers import Clock, ScriptedReranker, arm_data, profile


class Warmed(ScriptedReranker):
    """On this machine a token takes 0.2 ms; a kept document takes the model next to nothing."""

    def warm_up_samples(self) -> list[tuple[int, float]]:
        return [(100, 20.0), (200, 40.0), (400, 80.0), (1, 0.02), (4, 0.02)]


def test_a_small_stage_costs_what_is_beside_the_model() -> None:
    """The prior: 2 ms beside the model, 0.1 ms a token; here tokens take about 1.85 times as long. A stage of kept
    documents is still predicted at about 2 * 1.85 ms: what the model alone took for them, 0.02 ms, does not count."""
    arm = {**arm_data(), "latency": {"base_ms": 2.0, "ms_per_token": 0.1, "spread": 1.2}}
    clock = Clock()
    estimates = Estimates({"scripted": Warmed()}, profile(scripted=arm), clock)
    estimates.seed()
    stage = estimates.stage["scripted"]
    assert stage.predict(1, clock()).p50_ms == pytest.approx(2.1 * 1.82, rel=0.15)
    assert stage.predict(400, clock()).p50_ms == pytest.approx(80.0, rel=0.1)
