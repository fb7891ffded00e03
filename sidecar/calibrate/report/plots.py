"""The two plots: nDCG@10 over rerank_k with its knees, and quality against added latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar.calibrate.report.readout import Added, ArmPoint, ReadOut

# Okabe and Ito's colours, told apart with every common colour blindness; yellow is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_SIGNALS = "#555555"
_NONE = "#000000"
_INCHES = (7.2, 4.4)
_DPI = 130
# Below this many ms the axis is linear, so that 0 has its place beside 1,000.
_LINEAR_MS = 1.0
_FLAT = 0.001  # nDCG@10: the points of an arm that differ by less lie on each other
_LEAST_APART = 0.055  # of the axis' height, between two labels


def draw(readout: ReadOut, folder: Path) -> tuple[Path, Path]:
    """Write ``curve.png`` and ``pareto.png`` into ``folder``; returns their paths."""
    from matplotlib.figure import Figure

    paths = (folder / "curve.png", folder / "pareto.png")
    for path, plot in zip(paths, (_curve, _pareto), strict=True):
        # Without pyplot: no window system, nothing global.
        figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
        plot(figure.add_subplot(), readout, _colours(readout))
        figure.savefig(path)
    return paths


def _colours(readout: ReadOut) -> Mapping[str, str]:
    """By arm, the same in both plots."""
    models = [curve.reranker for curve in readout.curves if curve.strategy != "signals"]
    return {"signals": _SIGNALS} | {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(models)}


def _curve(axes: Any, readout: ReadOut, colours: Mapping[str, str]) -> None:
    none = readout.none
    ks = sorted({k for curve in readout.curves for k, _ in curve.points})
    axes.axhline(none.ndcg10, color=_NONE, linestyle=(0, (4, 3)), linewidth=1)
    labels = [(none.ndcg10, f"no rerank {none.ndcg10:.3f}", _NONE)]
    for curve in readout.curves:
        colour = colours[curve.reranker]
        x, y = zip(*curve.points, strict=True)
        own = [readout.point(curve.reranker, k) for k in x]
        band = [(none.ndcg10 + p.gain.low, none.ndcg10 + p.gain.high) for p in own if p is not None]
        axes.fill_between(x, *zip(*band, strict=True), color=colour, alpha=0.10, linewidth=0)
        axes.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.8)
        words = f" (knee {curve.knee})" if curve.knee is not None else ""
        if curve.knee is not None:
            height = dict(curve.points)[curve.knee]
            axes.plot([curve.knee], [height], "o", markersize=11, markerfacecolor="none", color=colour)
        labels.append((y[-1], f"{curve.reranker}{words}", colour))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("rerank_k, candidates scored (band: 95 % interval of the difference to no rerank)")
    axes.set_ylabel("nDCG@10")
    axes.set_title(_title(readout, "Quality over the number of candidates"), loc="left", fontsize=10)
    _plain(axes)
    _label_right(axes, labels)


def _label_right(axes: Any, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names at the lines' right ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    least = (high - low) * _LEAST_APART
    heights: list[float] = []
    for height, _, _ in sorted(labels):
        heights.append(max(height, heights[-1] + least) if heights else height)
    for place, (_, words, colour) in zip(heights, sorted(labels), strict=True):
        axes.annotate(
            words, (1.0, place), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", color=colour, fontsize=9, annotation_clip=False,
        )  # fmt: skip


def _pareto(axes: Any, readout: ReadOut, colours: Mapping[str, str]) -> None:
    none = readout.none
    axes.set_xscale("symlog", linthresh=_LINEAR_MS, linscale=0.5)
    for curve in readout.curves:
        own = [point for point in readout.points if point.reranker == curve.reranker]
        warm = [(point, point.warm) for point in own if point.warm is not None]
        cold = [(point, point.cold) for point in own if point.cold is not None]
        if _differ(warm, cold):
            _path(axes, cold, colours[curve.reranker], f"{curve.reranker}, new documents", filled=False)
        _path(axes, warm, colours[curve.reranker], curve.reranker, filled=True)
    frontier = _frontier(readout)
    axes.step(
        [ms for ms, _ in frontier] + [_right(readout)], [y for _, y in frontier] + [frontier[-1][1]],
        where="post", color="#BBBBBB", linewidth=5, alpha=0.5, zorder=0, solid_capstyle="butt",
    )  # fmt: skip
    axes.plot([0], [none.ndcg10], "s", color=_NONE, markersize=6)
    axes.annotate("no rerank", (0, none.ndcg10), (8, -4), textcoords="offset points", va="top", color=_NONE, fontsize=9)
    axes.set_xlim(-0.15, _right(readout))
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000) if tick <= _right(readout)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("latency added at p50, in ms as the caller sees it (whisker: to p95; number: rerank_k)")
    axes.set_ylabel("nDCG@10")
    axes.set_title(_title(readout, "Quality against latency"), loc="left", fontsize=10)
    _plain(axes)


def _differ(warm: Sequence[tuple[ArmPoint, Added]], cold: Sequence[tuple[ArmPoint, Added]]) -> bool:
    """Whether it matters for this arm that documents are new; a cross-encoder reads them every time."""
    by_k = {point.rerank_k: added.p50_ms for point, added in warm}
    return any(added.p50_ms > 1.5 * by_k.get(point.rerank_k, 0.0) for point, added in cold)


def _path(axes: Any, measured: Sequence[tuple[ArmPoint, Added]], colour: str, name: str, *, filled: bool) -> None:
    if not measured:
        return
    x = [max(0.0, added.p50_ms) for _, added in measured]
    y = [point.ndcg10 for point, _ in measured]
    face = colour if filled else "white"
    axes.plot(x, y, color=colour, marker="o", markersize=5, markerfacecolor=face, linewidth=1.2,
              linestyle="-" if filled else ":")  # fmt: skip
    for point, added in measured:
        axes.plot([max(0.0, added.p50_ms), max(0.0, added.p95_ms)], [point.ndcg10] * 2, color=colour, linewidth=0.8,
                  alpha=0.5)  # fmt: skip
        if max(y) - min(y) < _FLAT and point is not measured[-1][0]:
            continue
        axes.annotate(
            str(point.rerank_k), (max(0.0, added.p50_ms), point.ndcg10), (6, -6), textcoords="offset points",
            va="center", color=colour, fontsize=7,
        )  # fmt: skip
    best = max(range(len(y)), key=lambda i: y[i])
    axes.annotate(name, (x[best], y[best]), (0, 7), textcoords="offset points", ha="center", color=colour, fontsize=9)


def _frontier(readout: ReadOut) -> list[tuple[float, float]]:
    """(ms, nDCG@10) of warm arms that nothing faster beats, fastest first; starts with no rerank at 0 ms."""
    arms = [(max(0.0, p.warm.p50_ms), p.ndcg10) for p in readout.points if p.warm is not None]
    front = [(0.0, readout.none.ndcg10)]
    for ms, height in sorted(arms):
        if height > front[-1][1]:
            front.append((ms, height))
    return front


def _right(readout: ReadOut) -> float:
    """The right end of the time axis."""
    times = [added.p95_ms for point in readout.points for added in (point.warm, point.cold) if added is not None]
    return 1.6 * max([10.0, *times])


def _title(readout: ReadOut, what: str) -> str:
    return f"{what}: {readout.source.collection}, {readout.source.first_stage}, {len(readout.query_ids)} queries"


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
