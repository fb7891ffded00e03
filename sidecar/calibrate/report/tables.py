"""The tables of the read-out as words, the same for Markdown, HTML and the console."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sidecar.calibrate.report.readout import NONE_ARM, Added, ArmPoint, Curve, Gain, ReadOut, Recommendation

_STRATEGIES = {
    "cross_encoder": "cross-encoder",
    "late_interaction": "late interaction",
    "llm": "LLM",
    "cascade": "cascade",
}
_KEEPS_NOTHING = frozenset({"signals", "cross_encoder", "llm"})
_NOT_MEASURED = "–"
_CHOICES_SHOWN = 2
_LEAST_SHARE = 0.005  # below it would be shown as 0 %


@dataclass(frozen=True, slots=True)
class Table:
    """``numeric`` columns are aligned right."""

    title: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def headline(readout: ReadOut) -> Table:
    """The reranker table: each arm at its recommended k, and at its best k where that is another one."""
    cold = any(point.cold for point in readout.points)
    arms = [readout.none, *_shown(readout)]
    return Table(
        title="What each arm is worth and costs",
        header=(
            "Reranker",
            "nDCG@10",
            "p50 add",
            "p95 add",
            "gain (95 % interval)",
            "helped / hurt",
            *(("p50 add, new docs",) if cold else ()),
            "cost per 1k",
        ),
        numeric=(False, True, True, True, True, True, *((True,) if cold else ()), True),
        rows=tuple(_arm_row(point, cold) for point in arms),
        notes=(
            "nDCG@10 is of what a caller gets: the model's score fused with the signals by the fitted weights. Every "
            "query is measured with weights that were fitted on other queries. The gain is over no reranking.",
            "Added latency: as the caller sees it, over the same request without reranking; documents seen before.",
            "An arm stands at the fewest candidates that are within one standard error of its best, and at its best.",
            *_short(readout, arms),
        ),
    )


def _shown(readout: ReadOut) -> Iterator[ArmPoint]:
    for curve in readout.curves:
        best = max(curve.points, key=lambda point: point[1])[0]
        for k in sorted({curve.recommended_k, best}):
            point = readout.point(curve.reranker, k)
            if point is not None:
                yield point


def _short(readout: ReadOut, points: Sequence[ArmPoint]) -> tuple[str, ...]:
    """A note on the times that rest on fewer requests than were asked for."""
    few = [
        f"{point.label}{state} ({added.requests})"
        for point in points
        for state, added in (("", point.warm), (" with new documents", point.cold))
        if added is not None and added.requests < readout.requests
    ]
    if not few:
        return ()
    return (
        f"Fewer than {readout.requests} requests were timed of {', '.join(few)}: there was no time for more, or they "
        "failed; the notes say which. Their p95 is little more than the slowest of them.",
    )


def _arm_row(point: ArmPoint, cold: bool) -> tuple[str, ...]:
    if point.reranker == NONE_ARM:
        cells = ("None (first stage only)", f"{point.ndcg10:.3f}", "0 ms", "0 ms", "", "")
        return (*cells, *(("0 ms",) if cold else ()), "$0")
    return (
        arm_name(point),
        f"{point.ndcg10:.3f}",
        _ms(point.warm, "p50"),
        _ms(point.warm, "p95"),
        difference(point.gain),
        f"{point.gain.helped} / {point.gain.hurt}",
        *((_ms(_with_new_documents(point), "p50"),) if cold else ()),
        _usd(point.usd_per_1k),
    )


def _with_new_documents(point: ArmPoint) -> Added | None:
    """A cross-encoder, an LLM and arithmetic keep nothing about documents: for them all are new."""
    return point.warm if point.cold is None and point.strategy in _KEEPS_NOTHING else point.cold


def arm_name(point: ArmPoint) -> str:
    """``minilm-l6, late interaction (top-50)``."""
    if point.reranker == "signals":
        return f"Signals fused, no model (top-{point.rerank_k})"
    strategy = _STRATEGIES.get(point.strategy, point.strategy)
    return f"{point.reranker}, {strategy} (top-{point.rerank_k})"


def budgets(readout: ReadOut) -> Table:
    """What the router does within each budget."""
    cold = any(r.documents == "cold" for r in readout.recommendations)
    return Table(
        title="What the router does with this profile",
        header=("Budget", *(("documents",) if cold else ()), "Arm @ candidates", "nDCG@10", "gain (95 % interval)",
                "predicted p50", "predicted p95"),
        numeric=(True, *((False,) if cold else ()), False, True, True, True, True),
        rows=tuple(_budget_row(recommendation, cold) for recommendation in readout.recommendations),
        notes=(
            "Decided by the sidecar's own router with the fitted profile; predicted is the arm's own time, without "
            "transport. nDCG@10 is of answers that were decided and fused with a profile fitted on other queries.",
        ),
    )  # fmt: skip


def _budget_row(recommendation: Recommendation, cold: bool) -> tuple[str, ...]:
    seen = "seen before" if recommendation.documents == "warm" else "new"
    return (
        f"{recommendation.budget_ms:g} ms",
        *((seen,) if cold else ()),
        taken(recommendation),
        f"{recommendation.ndcg10:.3f}",
        difference(recommendation.gain),
        milliseconds(recommendation.predicted_p50_ms),
        milliseconds(recommendation.predicted_p95_ms),
    )


def taken(recommendation: Recommendation) -> str:
    """The arms in words: ``minilm-l6@50``, or with shares where the router takes several."""
    shown = [choice for choice in recommendation.choices[:_CHOICES_SHOWN] if choice.share >= _LEAST_SHARE]
    words = [f"{choice.label} {percent(choice.share)}" for choice in shown]
    rest = 1 - sum(choice.share for choice in shown)
    if rest >= _LEAST_SHARE:
        return ", ".join([*words, f"others {percent(rest)}"])
    return ", ".join(words) if len(words) > 1 else shown[0].label


def arms(readout: ReadOut) -> Table:
    """Whether each arm is on, where its curve bends and how many candidates are enough."""
    return Table(
        title="Arms",
        header=("Arm", "in the profile", "knee", "enough", "because"),
        numeric=(False, False, True, True, False),
        rows=tuple(_curve_row(curve) for curve in readout.curves),
        notes=(readout.traits,) if readout.traits else (),
    )


def _curve_row(curve: Curve) -> tuple[str, ...]:
    knee = _NOT_MEASURED if curve.knee is None else str(curve.knee)
    return (curve.reranker, "on" if curve.on else "off", knee, str(curve.recommended_k), curve.why)


def grid(readout: ReadOut) -> Table:
    """Every arm at every k."""
    return Table(
        title="Every arm at every number of candidates",
        header=("Arm", "k", "nDCG@10", "MRR@10", "gain (95 % interval)", "helped / hurt", "p50 add", "p95 add",
                "p99 add", "requests", "pairs/s", "p50 add, new docs", "requests", "cost per 1k"),
        numeric=(False, *(True,) * 13),
        rows=tuple(_grid_row(point, readout.requests) for point in readout.points),
        notes=_short(readout, readout.points),
    )  # fmt: skip


def _grid_row(point: ArmPoint, wanted: int) -> tuple[str, ...]:
    return (
        point.reranker,
        str(point.rerank_k or ""),
        f"{point.ndcg10:.3f}",
        f"{point.mrr10:.3f}",
        difference(point.gain) if point.rerank_k else "",
        f"{point.gain.helped} / {point.gain.hurt}" if point.rerank_k else "",
        _ms(point.warm, "p50"),
        _ms(point.warm, "p95"),
        _ms(point.warm, "p99"),
        _requests(point.warm, wanted),
        f"{point.warm.pairs_per_s:,.0f}" if point.warm and point.warm.pairs_per_s else _NOT_MEASURED,
        _ms(_with_new_documents(point), "p50"),
        _requests(point.cold, wanted),
        _usd(point.usd_per_1k),
    )


def _requests(added: Added | None, wanted: int) -> str:
    if added is None:
        return _NOT_MEASURED
    return f"{added.requests} of {wanted}" if added.requests < wanted else str(added.requests)


def difference(gain: Gain) -> str:
    """``+0.056 (+0.031 to +0.080)``."""
    return f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def percent(share: float) -> str:
    """``87 %``."""
    return f"{100 * share:.0f} %"


def milliseconds(ms: float) -> str:
    """``0.3 ms``, ``14 ms``, ``1,240 ms``; what is lost in the noise around 0 is 0."""
    if ms < 0.05:
        return "0 ms"
    return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:,.0f} ms"


def _ms(added: Added | None, quantile: str) -> str:
    return _NOT_MEASURED if added is None else milliseconds(float(getattr(added, f"{quantile}_ms")))


def _usd(price: float | None) -> str:
    if price is None:
        return _NOT_MEASURED
    return "$0" if price == 0 else f"${price:,.3f}"
