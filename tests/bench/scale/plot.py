"""The picture: what a pool's callers get as its replicas grow, simulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.scale.simulation import Figures, Load


def draw(path: Path, load: Load, simulated: Sequence[Figures]) -> None:
    """A PNG with one line for each share."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    replicas = [row.replicas for row in simulated]
    for label, values in (
        ("answers within the budget", [row.adherence for row in simulated]),
        ("useful: candidates scored", [row.useful for row in simulated]),
        ("answers in full", [row.full for row in simulated]),
        ("replicas busy", [row.busy for row in simulated]),
    ):
        axes.plot(replicas, [100 * value for value in values], marker="o", label=label)
    axes.set(xlabel="replicas", ylabel="%", ylim=(0, 105))
    axes.set_title(f"{load.rate_per_s:.0f} requests/s, budget {load.budget_ms:.0f} ms (simulated)")
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
