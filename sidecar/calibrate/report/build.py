"""Judged lists, latency samples and a fitted profile in; the read-out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.gain import read_curve
from router.policy import MAX_HARM
from router.profile import SIGNALS_ARM, Profile, signal_set
from sidecar.calibrate.fit_arm import recommended_k
from sidecar.calibrate.metrics import paired_bootstrap
from sidecar.calibrate.records import Floats, JudgedList, LatencySample
from sidecar.calibrate.report.context import context
from sidecar.calibrate.report.curves import knee
from sidecar.calibrate.report.latency import added_latency, usd_per_1k
from sidecar.calibrate.report.orders import Fit, Quality, Query, cross_fitted, measure, reorder
from sidecar.calibrate.report.readout import (
    FORMAT,
    NONE_ARM,
    ArmPoint,
    Curve,
    Gain,
    ReadOut,
    Recommendation,
    Source,
)
from sidecar.calibrate.report.recommend import Router, arm_of, choices, loads, max_documents, predicted
from sidecar.calibrate.report.verdict import Evidence, best_model, judge
from sidecar.calibrate.trait_fit import TraitFit

BUDGETS_MS = (50.0, 100.0, 300.0, 1000.0)
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Service:
    """The settings of the sidecar that the recommendations are for: budgets in ms, price limit in micro-USD.

    ``strategies`` of the rerankers by name; ``promotion_caps`` of those that have one.
    """

    default_ms: float
    reserve_ms: float
    max_micro_usd: int
    strategies: Mapping[str, str]
    promotion_caps: Mapping[str, int]


def build(
    lists: Sequence[JudgedList],
    samples: Sequence[LatencySample],
    profile: Profile,
    fit: Fit,
    *,
    ks: Sequence[int],
    source: Source,
    service: Service,
    traits: Sequence[TraitFit] = (),
    requests: int = 0,
) -> ReadOut:
    """Everything that the report says.

    ``profile`` was fitted on all of ``lists`` and is what the user gets; ``fit`` makes such a profile of any lists,
    and is used to measure every query with a profile that has not seen it. ``ks`` ascending. ``traits`` is what
    the fit has found about them; ``requests`` as in `ReadOut`. Raises ValueError for
    fewer than two lists, no relevant document, or no latency of requests without reranking.
    """
    queries = cross_fitted(lists, fit)
    limits = {name: limit for name in lists[0].raw if (limit := max_documents(lists, name, ks[-1])) is not None}
    points = _Points(queries, samples, service, limits).of_all(list(lists[0].raw), ks)
    signals = Counter(signal_set(profile, query.traits) for query in queries).most_common(1)[0][0]
    names = dict.fromkeys(point.reranker for point in points[1:])
    curves = tuple(
        _curve(name, [point for point in points if point.reranker == name], points[0], profile, signals)
        for name in names
    )
    budgets = sorted({*BUDGETS_MS, service.default_ms})
    recommendations = _recommendations(queries, samples, profile, points[0], budgets, ks, service, limits)
    described = context(lists, ks)
    signals_point = _recommended(points, curves, SIGNALS_ARM)
    model = best_model(points, [(c.reranker, c.recommended_k) for c in curves if c.reranker != SIGNALS_ARM])
    verdict = judge(
        Evidence(
            queries=len(queries),
            none_ndcg10=points[0].ndcg10,
            context=described,
            best=max((r for r in recommendations if r.documents == "warm"), key=lambda r: r.budget_ms),
            signals=signals_point,
            model=model,
            over_signals=paired_bootstrap(model.per_query, signals_point.per_query)
            if model and signals_point
            else None,
        )
    )
    return ReadOut(
        format=FORMAT,
        source=source,
        corpus=profile.corpus,
        profile_revision=profile.revision,
        signals=signals,
        query_ids=tuple(query.judged.query_id for query in queries),
        points=points,
        curves=curves,
        recommendations=recommendations,
        default_budget_ms=service.default_ms,
        context=described,
        verdict=verdict,
        traits=next((found.words for found in traits if found.signals == signals), ""),
        requests=requests,
    )


class _Points:
    """Measures arms; the first stage's order is the one that all are compared with."""

    def __init__(
        self,
        queries: Sequence[Query],
        samples: Sequence[LatencySample],
        service: Service,
        limits: Mapping[str, int],
    ) -> None:
        """``limits``: the most candidates that one answer of a reranker covers, where that is limited."""
        self._queries = queries
        self._limits = limits
        self._latency = added_latency(samples)
        self._prices = usd_per_1k(samples)
        self._service = service
        self._none = measure(queries, [reorder(query, NONE_ARM, 0) for query in queries])

    def of_all(self, rerankers: Sequence[str], ks: Sequence[int]) -> tuple[ArmPoint, ...]:
        """``none``, SIGNALS where there are signals, and every reranker, each at every k."""
        arms = [(NONE_ARM, 0)]
        names = [*([SIGNALS_ARM] if any(query.traits.signals for query in self._queries) else []), *rerankers]
        arms += [(name, k) for name in names for k in self._taken(name, ks)]
        return tuple(self._point(name, k) for name, k in arms)

    def _taken(self, name: str, ks: Sequence[int]) -> list[int]:
        """The ks that differ for a reranker: beyond what one answer of it covers all are the same."""
        return sorted({min(k, self._limits.get(name, k)) for k in ks})

    def _point(self, reranker: str, k: int) -> ArmPoint:
        orders = [reorder(query, reranker, k, self._service.promotion_caps.get(reranker, 0)) for query in self._queries]
        quality: Quality = self._none if reranker == NONE_ARM else measure(self._queries, orders)
        price = 0.0 if reranker in (NONE_ARM, SIGNALS_ARM) else self._prices.get((reranker, k))
        return ArmPoint(
            reranker=reranker,
            strategy=self._service.strategies.get(reranker, reranker),  # none and signals are their own
            rerank_k=k,
            ndcg10=float(quality.ndcg10.mean()),
            mrr10=float(quality.rr10.mean()),
            gain=gain(quality.ndcg10, self._none.ndcg10),
            warm=self._latency.get((reranker, k, True)),
            cold=self._latency.get((reranker, k, False)),
            usd_per_1k=price,
            per_query=tuple(quality.ndcg10.tolist()),
        )


def gain(after: Floats, before: Floats) -> Gain:
    """Paired difference over queries with its interval, and how many were helped and hurt."""
    interval = paired_bootstrap(after, before)
    difference = after - before
    return Gain(
        interval.mean,
        interval.low,
        interval.high,
        helped=int((difference > _ROUNDING).sum()),
        hurt=int((difference < -_ROUNDING).sum()),
    )


def _curve(name: str, own: Sequence[ArmPoint], none: ArmPoint, profile: Profile, signals: str) -> Curve:
    points = tuple((point.rerank_k, point.ndcg10) for point in own)
    on, why = switched(profile, name, signals)
    return Curve(
        reranker=name,
        strategy=own[0].strategy,
        points=points,
        knee=knee([(1, none.ndcg10), *points]),
        recommended_k=recommended_k(np.array([p.per_query for p in own]).T, [p.rerank_k for p in own]),
        on=on,
        why=why,
    )


def switched(profile: Profile, name: str, signals: str) -> tuple[bool, str]:
    """Whether the router may use the arm at any k, by the rule of `router.policy.choose`."""
    arm = profile.arms.get(name)
    curve = None if arm is None else arm.gains.get(signals)
    if curve is None:
        return False, "the profile expects no gain of it with these signals"
    read = read_curve(curve, tuple(point.k for point in curve.points), cut_short=name != SIGNALS_ARM)
    if all(expected <= 0.0 for expected, _ in read):
        return False, "its expected gain is not above 0"
    if not any(expected > 0.0 and lower >= -MAX_HARM for expected, lower in read):
        worst = min(lower for expected, lower in read if expected > 0.0)
        return False, f"it may hurt: the lower bound of its gain is {worst:+.3f}"
    return True, ""


def _recommendations(
    queries: Sequence[Query],
    samples: Sequence[LatencySample],
    profile: Profile,
    none: ArmPoint,
    budgets: Sequence[float],
    ks: Sequence[int],
    service: Service,
    limits: Mapping[str, int],
) -> tuple[Recommendation, ...]:
    """For each budget, warm documents first; cold ones where they were measured."""
    found = []
    for documents in ("warm", "cold"):
        measured = loads(samples, warm=documents == "warm")
        if documents == "cold" and not measured:
            continue
        # A reranker that was measured in one state only costs the same in the other, as far as is known.
        measured = {**loads(samples, warm=documents != "warm"), **measured}
        router = Router(measured, limits, service.default_ms, service.reserve_ms, service.max_micro_usd)
        for budget_ms in budgets:
            final = [router.decide(query, profile, budget_ms) for query in queries]
            tested = [arm_of(router.decide(query, query.profile, budget_ms)) for query in queries]
            orders = [
                reorder(query, name, k, service.promotion_caps.get(name, 0))
                for query, (name, k) in zip(queries, tested, strict=True)
            ]
            ndcg10 = measure(queries, orders).ndcg10
            p50_ms, p95_ms = predicted(final)
            found.append(
                Recommendation(
                    budget_ms=budget_ms,
                    documents="warm" if documents == "warm" else "cold",
                    choices=choices(final, ks),
                    ndcg10=float(ndcg10.mean()),
                    gain=gain(ndcg10, np.array(none.per_query)),
                    predicted_p50_ms=p50_ms,
                    predicted_p95_ms=p95_ms,
                    per_query=tuple(ndcg10.tolist()),
                )
            )
    return tuple(found)


def _recommended(points: Sequence[ArmPoint], curves: Sequence[Curve], reranker: str) -> ArmPoint | None:
    curve = next((curve for curve in curves if curve.reranker == reranker), None)
    if curve is None:
        return None
    return next(p for p in points if (p.reranker, p.rerank_k) == (reranker, curve.recommended_k))
