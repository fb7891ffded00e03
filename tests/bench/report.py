"""What a measurement hands over, and how it is shown: tables for people, JSON for everything else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

_DISTRIBUTIONS = (
    "millirank-server",
    "grpcio",
    "protobuf",
    "opentelemetry-sdk",
    "onnxruntime",
    "tokenizers",
    "numpy",
)


class BenchError(Exception):
    """Something can't be measured. The message says what happened and what to do."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over all rounds: their median, and the smallest and largest one."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one round; raises ValueError for none."""
        if not values:
            raise ValueError("a figure needs at least one round")
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        if self.rounds == 1:
            return _digits(self.median)
        return f"{_digits(self.median)} ({_digits(self.low)}-{_digits(self.high)})"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured; the names of its values end in their unit (``p50_ms``)."""

    name: str
    values: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class Section:
    """The result of one measurement: rows for the table, headline figures, and what a reader has to know."""

    title: str
    rows: Sequence[Row]
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    ``followed`` names the headline figures that are followed over time. ``missing`` says of each part that is not in
    the report why. ``details`` are further entries of the JSON, beside the ones that every report has.
    """

    followed: Sequence[str]
    sections: Mapping[str, Section]
    missing: Mapping[str, str]
    took_s: float
    details: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Those of ``followed`` that were measured, in its order."""
        found = {name: value for part in self.sections.values() for name, value in part.figures.items()}
        return {name: found[name] for name in self.followed if name in found}

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`; a figure that was not measured is null."""
        return {
            "figures": {**dict.fromkeys(self.followed), **self.figures()},
            "sections": {name: asdict(section) for name, section in self.sections.items()},
            "missing": dict(self.missing),
            **circumstances(self.took_s),
            **self.details,
        }

    def write(self, path: Path) -> None:
        """Save as JSON. Raises BenchError when the file can't be written."""
        save(path, self.as_json())


def prepare(path: Path) -> None:
    """Make the report's folder before minutes are spent on measuring. Raises BenchError when that can't be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from None


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON. Raises BenchError when the file can't be written."""
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise _not_writable(path, error) from None


def _not_writable(path: Path, error: OSError) -> BenchError:
    return BenchError(f"{path} can't be written: {error.strerror}; choose another --out")


def show(console: Console, section: Section) -> None:
    """One section as a table, its notes below."""
    columns = list(dict.fromkeys(name for row in section.rows for name in row.values))
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for row in section.rows:
        cells = (str(row.values[column]) if column in row.values else "" for column in columns)
        table.add_row(row.name, *cells)
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
    console.print()


def show_figures(console: Console, report: Report) -> None:
    """The headline figures, and what is missing."""
    table = Table(title="Figures", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in report.figures().items():
        table.add_row(name, _digits(value))
    console.print(table)
    for part, reason in report.missing.items():
        console.print(f"  {part}: not measured: {reason}", style="yellow", markup=False, highlight=False)


def circumstances(took_s: float) -> dict[str, Any]:
    """Where, with what and when something was measured, and how long that took, in s."""
    return {
        "machine": machine(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(took_s, 1),
    }


def machine() -> dict[str, Any]:
    """What this ran on; the load averages tell how much else did."""
    return {
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "model": _cpu_model(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """The installed versions that the figures depend on."""
    return {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _digits(value: float) -> str:
    """Three significant digits, which is more than a busy machine can repeat; whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
