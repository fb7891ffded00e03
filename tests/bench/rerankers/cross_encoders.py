"""The cross-encoders' figures: tables by shape of request, ratios, memory, size and agreement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.engines.export.fidelity import kendall_tau
from tests.bench.connection import quantile
from tests.bench.report import Row, Section, Spread
from tests.bench.rerankers.contenders import FP32, INT8, REFERENCE, Contender
from tests.bench.rerankers.pairs import MIX
from tests.bench.rerankers.rounds import Series

_MIX_NOTE = (
    "batch sizes were chosen on pairs of equal length, where all at once is often best; real texts would be served "
    "better by smaller ones, which the rivals with a batch size could be given"
)
MAIN = (256, 25)
"""Tokens and candidates of the cell whose ratios are the headline figures."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a contender beside its times. ``batch_size`` 0: it has none to choose."""

    contender: Contender
    peak_mb: float
    install_mb: float
    batch_size: int


def sections(found: Sequence[Series], facts: Sequence[Facts]) -> dict[str, Section]:
    """By name: a table for each cell, one of ratios at `MAIN`, one of everything else."""
    contenders = [fact.contender for fact in facts]
    tables = {series.cell.name: _cell(series, contenders) for series in found}
    main = next(series for series in found if (series.cell.tokens, series.cell.candidates) == MAIN)
    return {**tables, "ratios": _ratios(main, contenders), "contenders": _others(found, facts)}


def _cell(series: Series, contenders: Sequence[Contender]) -> Section:
    names = [contender.name for contender in contenders]
    rows = []
    for name in names:
        values = {
            "pairs_per_s": Spread.of(series.pairs_per_s(name)),
            "p50_ms": Spread.of([quantile(series.ms[name], 0.5)]),
            "p95_ms": Spread.of([quantile(series.ms[name], 0.95)]),
        }
        if REFERENCE in names:
            values["x_st_torch"] = _faster(series, name, REFERENCE)
        rows.append(Row(name, values))
    tokens = sum(request.tokens for request in series.requests)
    pairs = series.cell.candidates * len(series.requests)
    return Section(
        title=f"Cross-encoders: {series.cell.name}",
        rows=rows,
        notes=(
            f"{len(series.requests)} interleaved rounds of one request each, {tokens / pairs:.0f} tokens a pair on "
            "average; tokenisation included, transport not; x: how many times as fast, round by round",
            *([_MIX_NOTE] if series.cell.tokens == MIX else []),
        ),
    )


def _faster(series: Series, name: str, other: str) -> Spread:
    """How many times as fast as ``other`` in the same round."""
    return Spread.of([theirs / own for own, theirs in zip(series.ms[name], series.ms[other], strict=True)])


def _fastest(series: Series, contenders: Iterable[Contender]) -> str | None:
    """The name of the one with the highest median speed; None of nobody."""
    return max(
        (contender.name for contender in contenders),
        key=lambda name: Spread.of(series.pairs_per_s(name)).median,
        default=None,
    )


def _ratios(series: Series, contenders: Sequence[Contender]) -> Section:
    """Ours against each rival at the same precision, and best against best."""
    rows = []
    for precision in (FP32, INT8):
        own = next((one.name for one in contenders if one.is_ours and one.precision == precision), None)
        rivals = [one.name for one in contenders if not one.is_ours and one.precision == precision]
        if own is not None:
            rows += [Row(f"{own} / {rival}", {"x": _faster(series, own, rival)}) for rival in rivals]
    figures: dict[str, float] = {}
    own = _fastest(series, (one for one in contenders if one.is_ours))
    families: Mapping[str, Sequence[Contender]] = {
        "x_st_torch_256": [one for one in contenders if one.name == REFERENCE],
        "x_infinity_best_256": [one for one in contenders if one.is_infinity],
        "x_any_best_256": [one for one in contenders if not one.is_ours],
    }
    for figure, family in families.items():
        rival = _fastest(series, family)
        if own is not None and rival is not None:
            ratio = _faster(series, own, rival)
            rows.append(Row(f"best: {own} / {rival}", {"x": ratio}))
            figures[figure] = ratio.median
    return Section(
        title=f"Cross-encoders: how many times as fast, {series.cell.name}",
        rows=rows,
        figures=figures,
        notes=("medians of the rounds' ratios; the last rows are the fastest of each family, whatever its precision",),
    )


def _others(found: Sequence[Series], facts: Sequence[Facts]) -> Section:
    names = {fact.contender.name for fact in facts}
    rows = []
    for fact in facts:
        name = fact.contender.name
        values = {"peak_rss_mb": Spread.of([fact.peak_mb]), "install_mb": Spread.of([fact.install_mb])}
        if fact.batch_size:
            values["batch_size"] = Spread.of([float(fact.batch_size)])
        if REFERENCE in names:
            reference, own = (_lists(found, each) for each in (REFERENCE, name))
            worst = max(float(np.abs(a - b).max()) for a, b in zip(reference, own, strict=True))
            values["max_difference"] = Spread.of([worst])
            taus = [kendall_tau(a, b) for a, b in zip(reference, own, strict=True)]
            values["kendall_tau"] = Spread.of([float(np.mean(taus))])
        rows.append(Row(name, values))
    own_peak = [fact.peak_mb for fact in facts if fact.contender.is_ours]
    return Section(
        title="Cross-encoders: memory, size, agreement",
        rows=rows,
        figures={"rss_mb": max(own_peak)} if own_peak else {},
        notes=(
            "peak resident set of the process that scores, in MB of 10^6 bytes, trying out batch sizes not counted",
            "install: site-packages of its environment without pip, setuptools and bytecode; the environment of "
            "infinity has torch and ONNX Runtime, and serves both of its engines",
            f"agreement with {REFERENCE}: largest difference of a logit, and Kendall's tau within a request, averaged",
            "infinity's engine optimum leaves out the token types, so that its scores are another model's",
        ),
    )


def _lists(found: Sequence[Series], name: str) -> list[np.ndarray]:
    return [np.asarray(scores, np.float32) for series in found for scores in series.scores[name]]
