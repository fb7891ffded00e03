"""The read-out: a table for people, headline figures and everything else as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.load.measure import Cpus, Durations, Run
from tests.bench.load.summary import Summary
from tests.bench.report import circumstances, save

OWN = "mandatory first"
_ENDINGS = {OWN: "", "edf": "_edf", "fifo": "_fifo"}
_OVERLOAD = (2.0, 5.0, 10.0)
_SHARES = ("in_budget", "useful", "full", "partial", "first_stage", "fallback", "coverage", "wasted")
_TIMES = ("p50_ms", "p99_ms", "p999_ms", "loop_lag_p99_ms", "generator_lag_p99_ms")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One run of the bench: every order of work under every rate."""

    capacity_per_s: float
    runs: Mapping[str, Run]
    cpus: Cpus
    durations: Durations
    took_s: float

    def figures(self) -> dict[str, float]:
        """The headline: the worst over all rates and the step, of the sidecar as it is shipped."""
        own = self.runs[OWN]
        phases = [*own.rates.values(), own.step.summary]
        figures = {
            "in_budget_worst": min(one.in_budget for one in phases),
            "errors": sum(one.errors for one in phases),
            "client_fallback_worst": max(one.fallback for one in phases),
            "loop_lag_p99_ms": max(one.loop_lag_p99_ms for one in phases),
        }
        for factor in _OVERLOAD:
            for order, ending in _ENDINGS.items():
                if order in self.runs and factor in self.runs[order].rates:
                    figures[f"useful_{factor:g}x{ending}"] = self.runs[order].rates[factor].useful
        return figures

    def as_json(self) -> dict[str, Any]:
        """Everything but the single requests."""
        return {
            "figures": self.figures(),
            "capacity_per_s": self.capacity_per_s,
            "orders": {
                name: {
                    "rates": {f"{factor:g}": asdict(summary) for factor, summary in run.rates.items()},
                    "step": {**asdict(run.step.summary), "recovery_s": run.step.recovery_s},
                }
                for name, run in self.runs.items()
            },
            "cpus": {"generator": sorted(self.cpus.generator), "sidecar": sorted(self.cpus.sidecar)},
            "seconds": asdict(self.durations),
            **circumstances(self.took_s),
        }

    def write(self, path: Path) -> None:
        """Save as JSON. Raises BenchError when the file can't be written."""
        save(path, self.as_json())


def show(console: Console, name: str, run: Run) -> None:
    """One order of work as a table."""
    table = Table(title=f"Order of work: {name}", title_justify="left", title_style="bold")
    for column in ("rate", "requests", "/s", *_SHARES, "errors", *_TIMES, "other CPUs"):
        table.add_column(column.removesuffix("_ms").replace("_", " "), justify="right")
    for factor, summary in run.rates.items():
        table.add_row(f"{factor:g}x", *_cells(summary))
    table.add_row("step", *_cells(run.step.summary))
    console.print(table)
    recovered = run.step.recovery_s
    words = "not within the phase" if recovered is None else f"{recovered:.2f} s after the rate has fallen"
    console.print(f"  useful again as before the step: {words}\n", highlight=False, style="dim")


def show_figures(console: Console, report: LoadReport) -> None:
    """The headline figures, and how they were measured."""
    table = Table(title="Figures", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in report.figures().items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    notes = (
        f"capacity: {report.capacity_per_s:.1f} requests/s complete with all 50 candidates scored, 1 s to wait for it",
        "times in ms, from the scheduled moment; budgets 50, 100 and 200 ms alike; nothing is cached",
        f"generator on CPU {sorted(report.cpus.generator)}, sidecar and model on CPU {sorted(report.cpus.sidecar)}",
        "useful: from the sidecar, in time, 16 documents or more scored; wasted: computed, but nobody got it in time",
        "other CPUs: busy with other processes meanwhile; the orders of work take turns at each rate",
    )
    for note in notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)


def _cells(summary: Summary) -> list[str]:
    shares = [f"{getattr(summary, name):.3f}" for name in _SHARES]
    times = [_ms(getattr(summary, name)) for name in _TIMES]
    counts = (str(summary.requests), f"{summary.per_s:.1f}")
    return [*counts, *shares, str(summary.errors), *times, f"{summary.other_cpus:.2f}"]


def _ms(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "> 1000"
