"""Is reranking the fix here? The figures in words, by fixed rules, with the figures that each rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.calibrate.metrics import Interval
from sidecar.calibrate.report.readout import ArmPoint, Context, Gain, Recommendation, Verdict
from sidecar.calibrate.report.tables import percent

FEW_QUERIES = 30
"""Below this an interval over queries is too wide for a verdict."""
LOW_RECALL = 0.5
"""Context recall@50 below which most of what is relevant never reaches the reranker."""
LITTLE_ROOM = 0.03
"""nDCG@10 between first-stage order and perfect order below which there is nothing to gain."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict rests on.

    ``best``: what the router does with ample time; ``signals``: fusing the signals alone, None where candidates carry
    none; ``model``: the best reranker at its recommended k, None if there is none; ``over_signals``: its paired
    difference to ``signals``.
    """

    queries: int
    none_ndcg10: float
    context: Context
    best: Recommendation
    signals: ArmPoint | None
    model: ArmPoint | None
    over_signals: Interval | None


def judge(evidence: Evidence) -> Verdict:
    """The verdict; its first reason is the decisive one."""
    found = _decide(evidence)
    return Verdict(found.kind, found.headline, (*found.reasons, *_asides(evidence, found.kind)))


def _decide(evidence: Evidence) -> Verdict:
    gain, room = evidence.best.gain, evidence.context.ceiling[-1][1] - evidence.none_ndcg10
    if evidence.queries < FEW_QUERIES:
        return Verdict(
            "unclear",
            "Too few queries for a verdict.",
            (f"{evidence.queries} queries were judged; below {FEW_QUERIES} chance decides. Judge more.",),
        )
    if room < LITTLE_ROOM:
        return Verdict(
            "no_rerank",
            "Reranking is not the fix here: the first stage already has it right.",
            (f"Perfect order of its candidates would add only {room:.3f} nDCG@10 to {evidence.none_ndcg10:.3f}.",),
        )
    if gain.low <= 0.0:
        return _without_gain(evidence, gain, room)
    if _signals_suffice(evidence):
        return _signals(evidence)
    return Verdict("rerank", "Reranking is the fix here.", tuple(_worth(evidence)))


def _without_gain(evidence: Evidence, gain: Gain, room: float) -> Verdict:
    measured = (
        f"Within {evidence.best.budget_ms:g} ms the router gains {_interval(gain)}: no more than chance would do."
    )
    if evidence.context.recall50 < LOW_RECALL:
        return Verdict(
            "retrieval",
            "Reranking is not the fix here: the first stage misses the answers. Fix retrieval.",
            (_missed(evidence.context), measured),
        )
    return Verdict(
        "no_rerank",
        "Reranking with the arms measured is not the fix here.",
        (measured, f"There is room ({room:.3f} nDCG@10 to perfect order), but none of these arms fills it."),
    )


def _signals_suffice(evidence: Evidence) -> bool:
    """Fusion without a model helps for sure, and no model is surely better."""
    if evidence.signals is None or evidence.signals.gain.low <= 0.0:
        return False
    return evidence.over_signals is None or evidence.over_signals.low <= 0.0


def _signals(evidence: Evidence) -> Verdict:
    assert evidence.signals is not None  # noqa: S101 - _signals_suffice says so
    reasons = [
        f"Fusing the first stage's own scores, without a model, gains {_interval(evidence.signals.gain)} in no time."
    ]
    if evidence.model is not None and evidence.over_signals is not None:
        reasons.append(
            f"The best model, {evidence.model.label}, differs from that by {_bounds(evidence.over_signals)}: not "
            f"surely better, for {_ms(evidence.model)} more."
        )
    return Verdict("signals", "Calibrated fusion of the signals is the fix here; a model is not.", tuple(reasons))


def _worth(evidence: Evidence) -> list[str]:
    best, main = evidence.best, evidence.best.choices[0]
    reasons = [
        f"Within {best.budget_ms:g} ms the router takes {main.label} for {percent(main.share)} of the queries and "
        f"gains {_interval(best.gain)}; it helped {best.gain.helped} queries and hurt {best.gain.hurt}."
    ]
    if evidence.signals is not None and evidence.model is not None and evidence.over_signals is not None:
        reasons.append(
            f"{evidence.model.label} differs from fusing the signals without a model by "
            f"{_bounds(evidence.over_signals)}."
        )
    return reasons


def _asides(evidence: Evidence, kind: str) -> list[str]:
    """What else a reader should know, where it is not the verdict itself."""
    context, notes = evidence.context, []
    if kind in ("rerank", "signals") and context.recall50 < LOW_RECALL:
        notes.append(f"Better retrieval would add more. {_missed(context)}")
    if kind in ("rerank", "signals", "no_rerank"):
        notes.append(
            f"Of the first five candidates {percent(context.precision5)} are relevant; in perfect order it would be "
            f"{percent(context.best_precision5)}."
        )
    return notes


def _missed(context: Context) -> str:
    return (
        f"Only {percent(context.recall50)} of the relevant documents are among the first 50 candidates, and no "
        "reranker brings back what is not there."
    )


def _ms(point: ArmPoint) -> str:
    return f"{point.warm.p50_ms:.0f} ms" if point.warm else "time that was not measured"


def _interval(gain: Gain) -> str:
    return f"{gain.mean:+.3f} nDCG@10 (95 % interval {gain.low:+.3f} to {gain.high:+.3f})"


def _bounds(interval: Interval) -> str:
    return f"{interval.mean:+.3f} (95 % interval {interval.low:+.3f} to {interval.high:+.3f})"


def best_model(points: Sequence[ArmPoint], recommended: Sequence[tuple[str, int]]) -> ArmPoint | None:
    """Of the rerankers at their recommended k, the one with the highest nDCG@10."""
    wanted = [point for point in points if (point.reranker, point.rerank_k) in recommended]
    return max(wanted, key=lambda point: point.ndcg10, default=None)
