"""What becomes of a request's candidates: the order after reranking, after fusing signals alone, or the first stage's.

Plain functions of what was asked, planned and scored.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from router.fusion import fuse, order
from router.policy import Decision, Reason, Verdict
from router.profile import SIGNALS_ARM, FusionWeights, Profile
from router.promotion import cap_promotions
from sidecar.messages import Completeness, Degradation, DegradationReason, Outcome, Ranked, Request, ScoreSource, Usage
from sidecar.planner import Plan
from sidecar.scored_prefix import ScoredPrefix

# A forced arm that calibration has not measured is ordered by its own scores alone.
_MODEL_ONLY = FusionWeights(rerank=1.0, signals={})
# Forced SIGNALS where the profile has no weights for what came along.
_RANK_ONLY = FusionWeights(rerank=0.0, signals={"rank": 1.0})


def why_nothing(plan: Plan) -> Degradation | None:
    """NONE is a degradation only where something better was wanted and could not be had."""
    decision = plan.explanation.decision
    if plan.overloaded:
        return Degradation(
            DegradationReason.OVERLOADED, "no arm that is expected to help fits the time behind those who wait already"
        )
    if decision.reason is Reason.BUDGET_TOO_SMALL:
        return Degradation(
            DegradationReason.BUDGET_TOO_SMALL, "no arm that is expected to help fits the time or the price"
        )
    if decision.reason is Reason.NO_GAIN and any(not document.text for document in plan.documents):
        return Degradation(
            DegradationReason.INDEX_UNAVAILABLE, "documents have no text, and no index that is ready holds them all"
        )
    if decision.reason is Reason.NOT_READY:
        verdicts = {arm.verdict for arm in decision.considered}
        loading = Verdict.NOT_READY in verdicts
        reason = DegradationReason.NOT_READY if loading else DegradationReason.CIRCUIT_OPEN
        return Degradation(reason, "the arms that would help are not ready")
    return None


@functools.lru_cache(maxsize=64)
def _unranked(count: int) -> tuple[Ranked, ...]:
    """First-stage order; kept, because callers tend to send the same number of candidates each time."""
    return tuple(Ranked(index, None, None, ScoreSource.FIRST_STAGE) for index in range(count))


def first_stage(request: Request, degradation: Degradation | None) -> Outcome:
    """The candidates as they came, and why they were not reranked if they should have been."""
    return Outcome(
        ranked=_unranked(len(request.candidates)),
        scored_k=0,
        completeness=Completeness.FIRST_STAGE_ONLY if degradation else Completeness.FULL,
        degradations=(degradation,) if degradation else (),
    )


def signals_only(request: Request, decision: Decision, profile: Profile) -> Outcome:
    """The candidates by their fused first-stage signals, without a model."""
    count = decision.planned_k
    arm = profile.arms.get(SIGNALS_ARM)
    weights = arm.weights.get(decision.signal_set, _RANK_ONLY) if arm else _RANK_ONLY
    fused = fuse(None, [candidate.signals for candidate in request.candidates[:count]], range(count), weights)
    return Outcome(
        ranked=_ranked(request, range(count), fused, None, ScoreSource.SIGNALS),
        scored_k=count,
        completeness=Completeness.FULL,
    )


def reranked(request: Request, plan: Plan, scored: ScoredPrefix, promotion_cap: int) -> Outcome:
    """The scores, fused with the signals by the profile's weights, as an order; first-stage order if there are none.

    ``promotion_cap``: how many places they may lift a candidate over its first-stage rank (0: any number).
    """
    decision = plan.explanation.decision
    count = len(scored.scores)
    degradation = scored.degradation
    if scored.unscored and degradation is None:
        left_out = f"{decision.reranker} has no score for {len(scored.unscored)} of {count} candidates"
        degradation = Degradation(DegradationReason.INDEX_UNAVAILABLE, left_out)
    if count == len(scored.unscored):
        # What was computed in vain still took its time and price.
        return replace(
            first_stage(request, degradation),
            usage=scored.usage,
            queue_ms=scored.queue_ms,
            score_ms=scored.score_ms,
        )
    arm = plan.profile.arms.get(decision.reranker)
    weights = arm.weights.get(decision.signal_set, _MODEL_ONLY) if arm else _MODEL_ONLY
    positions = [position for position in range(count) if position not in scored.unscored]
    raw = [scored.scores[position] for position in positions]
    signals = [request.candidates[position].signals for position in positions]
    fused = fuse(raw, signals, positions, weights)
    return Outcome(
        ranked=_ranked(request, positions, fused, raw, ScoreSource.RERANKER, promotion_cap),
        scored_k=len(positions),
        completeness=Completeness.PARTIAL if degradation else Completeness.FULL,
        degradations=(degradation,) if degradation else (),
        usage=scored.usage,
        queue_ms=scored.queue_ms,
        score_ms=scored.score_ms,
        model_revision=scored.revision,
    )


def _ranked(
    request: Request,
    scored: Sequence[int],
    fused: Sequence[float],
    raw: Sequence[float] | None,
    source: ScoreSource,
    promotion_cap: int = 0,
) -> tuple[Ranked, ...]:
    """The scored candidates in their new order, the rest behind them in first-stage order.

    With ``promotion_cap`` nobody stands more than so many places above its first-stage rank, whatever the scores say.
    """
    places = {position: place for place, position in enumerate(scored)}
    ranked = []
    wished = order(fused, scored, len(request.candidates))
    for position in cap_promotions(wished, promotion_cap) if promotion_cap else wished:
        place = places.get(position)
        if place is None:
            ranked.append(Ranked(position, None, None, ScoreSource.FIRST_STAGE))
        else:
            ranked.append(Ranked(position, fused[place], raw[place] if raw else None, source))
    return tuple(ranked)


def without_cost(outcome: Outcome) -> Outcome:
    """What a kept or shared answer costs whom it is given to: nothing."""
    pairs = outcome.usage.pairs
    return replace(outcome, usage=Usage(pairs=pairs, cached_pairs=pairs), queue_ms=0.0, score_ms=0.0)


def view(ranked: tuple[Ranked, ...], request: Request) -> tuple[Ranked, ...]:
    """``min_score`` and ``top_n`` are the caller's view of an outcome, applied last."""
    if request.min_score is not None:
        least = request.min_score
        ranked = tuple(item for item in ranked if item.raw_score is None or item.raw_score >= least)
    return ranked[: request.top_n] if request.top_n else ranked
