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


class Quick(ScriptedReranker):
    """On this machine a token takes 0.02 ms."""

    def warm_up_samples(self) -> list[tuple[int, float]]:
        return [(100, 2.0), (200, 4.0), (400, 8.0), (1, 0.02), (4, 0.02)]


def test_a_faster_model_does_not_make_messages_faster() -> None:
    """The prior: 2 ms beside the model, 0.1 ms a token; here tokens take a fifth. A stage of kept documents is still
    predicted at 2 ms, and one of 400 tokens at 2 + 8 ms; so is the first chunk, with half of what is beside it."""
    arm = {**arm_data(), "latency": {"base_ms": 2.0, "ms_per_token": 0.1, "spread": 1.2}}
    clock = Clock()
    estimates = Estimates({"scripted": Quick()}, profile(scripted=arm), clock)
    estimates.seed()
    for estimator, beside_ms in ((estimates.stage["scripted"], 2.0), (estimates.chunk["scripted"], 1.0)):
        assert estimator.predict(1, clock()).p50_ms == pytest.approx(beside_ms, rel=0.15)
        assert estimator.predict(400, clock()).p50_ms == pytest.approx(beside_ms + 8.0, rel=0.1)


class Rehearsing(ScriptedReranker):
    """What it has measured of itself is what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.measured = ((100, 100.0), (200, 200.0), (400, 400.0))

    def warm_up_samples(self) -> tuple[tuple[int, float], ...]:
        return self.measured


@pytest.mark.parametrize(
    ("chunks", "idle_s", "expected_ms"),
    [
        (0, 2.0, 20.0),  # nothing but the warm-up is known, and it was slow: what was measured since then replaces it
        (40, 59.0, 100.0),  # requests know better what they take, though the prior begins to count again
        (40, 61.0, 20.0),  # but that was long ago
    ],
)
def test_a_warm_up_beside_something_that_took_the_cpu_is_forgotten(
    chunks: int, idle_s: float, expected_ms: float
) -> None:
    """A token took 1 ms in the warm-up and in ``chunks`` requests' chunks, and takes 0.2 ms when measured again."""
    reranker, clock = Rehearsing(), Clock()
    estimates = Estimates({"scripted": reranker}, profile(scripted=arm_data(ms_per_token=0.1)), clock)
    estimates.seed()
    for _ in range(chunks):
        clock.pass_ms(1.0)
        estimates.stage["scripted"].observe(100, 100.0, clock())
        estimates.chunk["scripted"].observe(100, 100.0, clock())
    reranker.measured = ((100, 20.0), (200, 40.0), (400, 80.0))
    clock.pass_ms(1e3 * idle_s)
    estimates.seed()
    for estimator in (estimates.stage["scripted"], estimates.chunk["scripted"]):
        assert estimator.predict(100, clock()).p50_ms == pytest.approx(expected_ms, rel=0.1)
