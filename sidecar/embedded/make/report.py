"""The figures of the model cards as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.calibrate.metrics import Interval
from sidecar.embedded.make.evaluate import (
    KS,
    USUAL_K,
    Default,
    Measured,
    PerQuery,
    Weights,
    compare,
    gains,
    macro,
    ndcg,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One fused order: first-stage list, weights, and the label of the row that it is compared with."""

    label: str
    first_stage: str
    weights: Weights
    base: str


BM25, HYBRID, SIGNALS = "BM25", "hybrid (RRF)", "hybrid, SIGNALS (bm25 + dense)"
FIRST_STAGE_ROWS = (Row(BM25, "bm25", {}, BM25), Row(HYBRID, "hybrid", {}, HYBRID))
SIGNALS_ROW = Row(SIGNALS, "hybrid", {"bm25": 1, "dense": 1}, HYBRID)
LATE_INTERACTION_ROWS = (
    Row("BM25, late interaction alone", "bm25", {"li": 1}, BM25),
    Row("BM25, late interaction + half bm25", "bm25", {"li": 1, "bm25": 0.5}, BM25),
    Row("hybrid, late interaction alone", "hybrid", {"li": 1}, SIGNALS),
    Row("hybrid, SIGNALS + late interaction", "hybrid", {"bm25": 1, "dense": 1, "li": 1}, SIGNALS),
)
CROSS_ENCODER_ROWS = (
    Row("BM25, tiny cross-encoder alone", "bm25", {"ce": 1}, BM25),
    Row("BM25, tiny cross-encoder + bm25", "bm25", {"ce": 1, "bm25": 1}, BM25),
    Row("BM25, half tiny cross-encoder + bm25", "bm25", {"ce": 0.5, "bm25": 1}, BM25),
    Row("hybrid, SIGNALS + tiny cross-encoder", "hybrid", {"bm25": 1, "dense": 1, "ce": 1}, SIGNALS),
    Row("hybrid, SIGNALS + half tiny cross-encoder", "hybrid", {"bm25": 1, "dense": 1, "ce": 0.5}, SIGNALS),
)
# Weights are multiples of a quarter, chosen to hurt no collection rather than to win on the average: the user's
# collection is another one. Where bm25 and dense came along, the dense signal has no weight of its own beside late
# interaction, which contains the same cosine. Without signals the caller's list may be either one.
DEFAULTS = (
    Default(None, ("bm25", "dense"), "hybrid", {"bm25": 1, "dense": 1}),
    Default("li", (), "bm25", {"li": 1, "rank": 0.5}),
    Default("li", (), "hybrid", {"li": 1, "rank": 0.5}),
    Default("li", ("bm25",), "bm25", {"li": 1, "bm25": 0.5}),
    Default("li", ("dense",), "dense", {"li": 1, "rank": 0.25}),
    Default("li", ("bm25", "dense"), "hybrid", {"li": 1, "bm25": 0.5}),
    Default("ce", (), "bm25", {"ce": 0.25, "rank": 1}),
    Default("ce", (), "hybrid", {"ce": 0.25, "rank": 1}),
    Default("ce", ("bm25",), "bm25", {"ce": 0.75, "bm25": 1}),
    Default("ce", ("dense",), "dense", {"ce": 0.25, "dense": 1}),
    Default("ce", ("bm25", "dense"), "hybrid", {"ce": 0.25, "bm25": 1, "dense": 1}),
)
ARM_NAMES = {None: "signals", "li": "late_interaction", "ce": "cross_encoder (tiny)"}


def quality_table(measured: Sequence[Measured], rows: Sequence[Row]) -> str:
    """nDCG@10 per collection and macro, with the difference to each row's base and its interval."""
    values: dict[str, list[PerQuery]] = {}
    for row in (*FIRST_STAGE_ROWS, SIGNALS_ROW, *rows):
        values[row.label] = [ndcg(m, row.first_stage, row.weights) for m in measured]
    names = [m.collection.name for m in measured]
    lines = _header(["", *names, "macro", "difference (95 % interval), p"])
    for row in (*FIRST_STAGE_ROWS, SIGNALS_ROW, *rows):
        found = values[row.label]
        cells = [f"{v.mean():.3f}" for v in found]
        difference = "" if row.label == row.base else f"{interval(compare(found, values[row.base]))} vs {row.base}"
        lines.append(_line([row.label, *cells, f"{macro(found):.3f}", difference]))
    return "\n".join(lines)


def cross_encoder_verdict(measured: Sequence[Measured]) -> str:
    """In words, what the intervals say about the cross-encoder beside bm25 and beside SIGNALS."""
    by_label = {row.label: row for row in (*FIRST_STAGE_ROWS, SIGNALS_ROW, *CROSS_ENCODER_ROWS)}
    sentences = []
    for row in CROSS_ENCODER_ROWS:
        new, base = ([ndcg(m, r.first_stage, r.weights) for m in measured] for r in (row, by_label[row.base]))
        found = compare(new, base)
        word = "better than" if found.low > 0 else "worse than" if found.high < 0 else "no different from"
        sentences.append(f"- {row.label}: {word} {row.base} ({found.mean:+.3f}).")
    return "\n".join(["In short, at a confidence of 95 %:", "", *sentences])


def default_table(measured: Sequence[Measured], arms: Sequence[str | None]) -> str:
    """The built-in profile's weights for `arms`, with their macro gain over first-stage order."""
    lines = _header(["arm", "signals", "first stage", "weights", *(f"gain k={k}" for k in KS), f"interval k={USUAL_K}"])
    for default in DEFAULTS:
        if default.arm in arms:
            found = gains(measured, default)
            weights = ", ".join(f"{_public(name)} {value:g}" for name, value in default.weights.items())
            cells = [f"{found[k].mean:+.3f}" if k in found else "" for k in KS]
            usual = found[USUAL_K]
            bounds = f"{usual.low:+.3f} to {usual.high:+.3f}"
            signals = "+".join(default.signals) or "none"
            lines.append(_line([ARM_NAMES[default.arm], signals, default.first_stage, weights, *cells, bounds]))
    return "\n".join(lines)


def interval(value: Interval) -> str:
    """`+0.012 (+0.003 to +0.020), p 0.004`."""
    p = "p < 0.001" if value.p < 0.001 else f"p {value.p:.3f}"
    return f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f}), {p}"


def _public(name: str) -> str:
    return "rerank" if name in {"li", "ce"} else name


def _header(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
