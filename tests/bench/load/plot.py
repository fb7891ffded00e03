"""The picture: what callers get at each rate, for each order of work, and the step over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.load.generator import Kind, Seen
from tests.bench.load.measure import Run

_KINDS = ((Kind.FULL, "#2a6f97"), (Kind.PARTIAL, "#8ecae6"), (Kind.FIRST_STAGE, "#dddddd"), (Kind.FALLBACK, "#e07a5f"))
_BIN_S = 1.0


def draw(path: Path, runs: Mapping[str, Run], capacity: float) -> None:
    """A PNG with a panel for the useful share, one for what answers hold, and one for the step."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    _useful(axes[0], runs)
    first, run = next(iter(runs.items()))
    _kinds(axes[1], first, run)
    _step(axes[2], runs)
    figure.suptitle(f"Load; 1 = {capacity:.1f} requests/s, at which {Kind.FULL} answers are all that comes")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _useful(axes: Any, runs: Mapping[str, Run]) -> None:
    for name, run in runs.items():
        factors = list(run.rates)
        axes.plot(range(len(factors)), [run.rates[factor].useful for factor in factors], marker="o", label=name)
        axes.set_xticks(range(len(factors)), [f"{factor:g}x" for factor in factors])
    axes.set(title="useful: from the sidecar, in time, 16 documents scored", ylim=(0, 1.02), xlabel="rate / capacity")
    axes.legend()


def _kinds(axes: Any, name: str, run: Run) -> None:
    labels = [f"{factor:g}x" for factor in run.rates]
    bottom = [0.0] * len(labels)
    for kind, colour in _KINDS:
        shares = [getattr(summary, kind.value) for summary in run.rates.values()]
        axes.bar(labels, shares, bottom=bottom, color=colour, label=kind.value.replace("_", " "))
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes.set(title=f"what callers get ({name})", ylim=(0, 1.02), xlabel="rate / capacity")
    axes.legend(loc="lower left")


def _step(axes: Any, runs: Mapping[str, Run]) -> None:
    for name, run in runs.items():
        moments, shares = _useful_over_time(run.step.seen)
        axes.plot(moments, shares, label=name)
        axes.axvspan(run.step.rises_s, run.step.falls_s, color="#f4f1de", zorder=0)
    axes.set(title="useful share over time, step 1x - 10x - 1x", ylim=(0, 1.02), xlabel="seconds")
    axes.legend()


def _useful_over_time(seen: Sequence[Seen]) -> tuple[list[float], list[float]]:
    bins: dict[int, list[bool]] = {}
    for one in seen:
        bins.setdefault(int(one.at_s / _BIN_S), []).append(one.useful)
    return [(number + 0.5) * _BIN_S for number in bins], [sum(yes) / len(yes) for yes in bins.values()]
