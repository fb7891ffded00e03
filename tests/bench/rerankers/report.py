"""The report of this bench: that of the sidecar's bench with figures and versions of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench.report import Report

FIGURES = (
    "x_st_torch_256",
    "x_infinity_best_256",
    "x_any_best_256",
    "ndcg_loss_int8",
    "rss_mb",
    "late_interaction_100_ms",
)
"""The figures that are followed over time; a run that leaves a part out lacks its figures."""


@dataclass(frozen=True, slots=True)
class RerankersReport(Report):
    """``contenders`` says of each by name how it was run: precision, environment, batch size."""

    contenders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """In the order of `FIGURES`."""
        found = {name: value for part in self.sections.values() for name, value in part.figures.items()}
        return {name: found[name] for name in FIGURES if name in found}

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`."""
        # Named in full: a class with slots is made anew by its decorator, and super() alone would look for the first.
        return {**Report.as_json(self), "contenders": {name: dict(one) for name, one in self.contenders.items()}}
