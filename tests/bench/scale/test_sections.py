"""What the tables and the headline figures say of what was measured."""

from __future__ import annotations

from tests.bench.report import Report, Spread
from tests.bench.scale.sections import FIGURES, hop_section, measured_section, simulation_section
from tests.bench.scale.simulation import Figures, Load
from tests.bench.scale.workload import Measured, Way

MEASURED = {
    "in process": Measured(11.0, 12.0, 86.0, 74.0),
    "pool of 1": Measured(19.5, 25.0, 71.0, 133.0),
    "pool of 2": Measured(21.0, 26.0, 82.0, 131.0),
}
LOAD = Load([2.0], 5, 7.0, 100.0, 9_000.0, 100)
SIMULATED = [Figures(25, 0.99, 0.25, 0.01, 0.15, 104.0, 1.0), Figures(100, 1.0, 1.0, 1.0, 0.0, 60.0, 0.9)]


def test_every_followed_figure_comes_from_a_section() -> None:
    """8.5 ms more at p50 with one replica; throughput of each row; the smallest simulated share in budget."""
    sections = {
        "measured": measured_section(MEASURED),
        "hop": hop_section(MEASURED, Way(3.4, 3.6, 10.9)),
        "simulation": simulation_section(LOAD, SIMULATED),
    }
    assert Report(FIGURES, sections, {}, 1.0).figures() == {
        "hop_p50_ms": 8.5,
        "requests_per_s_in_process": 86.0,
        "requests_per_s_pool_of_1": 71.0,
        "requests_per_s_pool_of_2": 82.0,
        "simulated_adherence_worst": 0.99,
    }


def test_rows_hold_all_that_was_found() -> None:
    """Each row by its name, each value under the name that it was measured by."""
    rows = {row.name: row.values for row in simulation_section(LOAD, SIMULATED).rows}
    assert list(rows) == ["25 replicas", "100 replicas"]
    assert set(rows["25 replicas"]) == {"adherence", "useful", "full", "first_stage", "p99_ms", "busy"}
    assert rows["25 replicas"]["useful"] == Spread.of([0.25])
    (hop,) = hop_section(MEASURED, Way(3.4, 3.6, 10.9)).rows
    assert {name: value.median for name, value in hop.values.items()} == {
        "hop_p50_ms": 8.5,
        "proxy_ms": 3.4,
        "replica_ms": 3.6,
        "model_ms": 10.9,
    }
