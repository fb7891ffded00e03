"""The simulated pool, with numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from tests.bench.scale.simulation import Load, simulate

# 10 ms a chunk, 4 of them, 4 ms of way: alone, a request takes 44 ms.
ALONE = Load([10.0], chunks=4, way_ms=4.0, budget_ms=100.0, rate_per_s=0.001, requests=200)


def test_a_request_alone() -> None:
    """Nobody is before it: way and chunks, and all of it useful."""
    figures = simulate(ALONE, replicas=1, seed=1)
    assert figures.p99_ms == pytest.approx(44.0)
    assert (figures.adherence, figures.useful, figures.full, figures.first_stage) == (1.0, 1.0, 1.0, 0.0)


def test_a_budget_for_half_of_it() -> None:
    """27 ms: 23 without the way, which is two chunks; nobody waits for a third."""
    figures = simulate(Load([10.0], 4, 4.0, 27.0, 0.001, 200), replicas=1, seed=1)
    assert figures.useful == 0.5
    assert figures.full == 0.0
    assert figures.p99_ms == pytest.approx(24.0)


def test_overload_costs_quality_and_no_time() -> None:
    """Ten times more than can be computed: at most a tenth is scored, and every answer is in time."""
    figures = simulate(Load([10.0], 4, 4.0, 100.0, 250.0, 5_000), replicas=1, seed=1)
    assert figures.adherence == 1.0
    assert 0.05 < figures.useful <= 0.105
    assert figures.busy > 0.9


def test_replicas_bring_it_back() -> None:
    """The useful share grows with the replicas; twice what the load needs is nearly all of it."""
    load = Load([8.0, 10.0, 12.0], 4, 4.0, 100.0, 250.0, 5_000)
    shares = [simulate(load, replicas, seed=1).useful for replicas in (2, 5, 10, 20)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.99


def test_the_same_seed_gives_the_same_figures() -> None:
    """And another one others."""
    load = Load([5.0, 10.0, 30.0], 4, 4.0, 100.0, 200.0, 2_000)
    assert simulate(load, 5, seed=7) == simulate(load, 5, seed=7)
    assert simulate(load, 5, seed=7) != simulate(load, 5, seed=8)


def test_nothing_to_simulate_with() -> None:
    """Said before anything is divided by it."""
    with pytest.raises(ValueError, match="replica"):
        simulate(ALONE, replicas=0, seed=1)
