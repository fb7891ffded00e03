"""choose(...): which arm answers this request, and why every other one does not.

Everything is an argument: the same arguments give the same decision, always (invariant 4 of the design's
section 6), and every answer that is less than planned starts from a reason and verdicts given here (invariant
5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router.arms import State, Strategy
from router.candidates import (
    OVER_BUDGET,
    OVER_COST,
    Arm,
    Said,
    conclude,
    decide,
    grid,
    none_arm,
    reranker_arms,
    reranker_curve,
    signals_arm,
    signals_curve,
    trait_shift,
)
from router.decision import (
    ConsideredArm,
    Decision,
    Reason,
    RerankerOffError,
    RerankerView,
    Routing,
    UnknownCollectionError,
    UnknownRerankerError,
    Verdict,
)
from router.forced import choose_forced
from router.profile import SIGNALS_ARM, GainCurve, Profile, signal_set
from router.traits import Traits

__all__ = [
    "MAX_HARM",
    "ConsideredArm",
    "Decision",
    "Reason",
    "RerankerOffError",
    "RerankerView",
    "Routing",
    "UnknownCollectionError",
    "UnknownRerankerError",
    "Verdict",
    "choose",
]

MAX_HARM: Final = 0.01
"""How far below zero the lower end of an arm's gain interval may lie, in nDCG@10."""


def choose(
    *,
    traits: Traits,
    spendable_ms: float,
    max_micro_usd: int | None,
    routing: Routing,
    profile: Profile,
    rerankers: Sequence[RerankerView],
    signals_ms: float,
) -> Decision:
    """Decide. ``signals_ms`` is the predicted time of SIGNALS; ``max_micro_usd`` None means no price limit.

    AUTO: an arm is eligible if its expected gain is above 0 with a lower bound of at least -MAX_HARM, its p95
    fits ``spendable_ms``, its price fits the purse, its reranker is ready and the routing allows it. Of these (and
    first-stage order) the one with the largest gain - min_gain_per_second * p50 is taken: a slower arm has to add
    ``profile.min_gain_per_second`` for every second that it adds. Forced arms: see `choose_forced`.

    A larger budget never lowers that maximum, but for `_behind_others`. It can lower the gain alone, and then saves
    time, in one case: where it admits an arm that is faster in the median than the one taken before, yet slower at p95.

    Raises UnknownRerankerError or RerankerOffError for a forced arm that is not there or is switched off.
    """
    signals = signal_set(profile, traits)
    if routing.strategy is not None or routing.reranker:
        return choose_forced(
            traits=traits,
            spendable_ms=spendable_ms,
            max_micro_usd=max_micro_usd,
            routing=routing,
            profile=profile,
            signals=signals,
            rerankers=rerankers,
            signals_ms=signals_ms,
        )
    none = none_arm()
    if traits.documents < 2:
        return decide(none, Reason.NOTHING_TO_DO, (), signals)

    arms: list[Arm] = [none]
    said: list[Said | None] = [None]  # what speaks against each of them
    limits = (spendable_ms, max_micro_usd)
    ks = grid(profile, traits.documents, routing.rerank_k)
    if signals:
        curve = signals_curve(profile, signals)
        shift = trait_shift(profile, SIGNALS_ARM, signals, traits)
        arms.append(signals_arm(ks[0] if routing.rerank_k else traits.documents, signals_ms, curve, shift))
        said += _against_signals(arms[-1], routing, curve, signals, limits)
    for view in rerankers:
        offered, objections = _offers(view, ks, routing, profile, signals, traits, limits)
        arms += offered
        said += objections

    rate_ms = profile.min_gain_per_second / 1000.0
    chosen = _best(arms, said, rate_ms)
    reason = _reason(said) if chosen is none else Reason.BEST_EXPECTED_GAIN
    return decide(chosen, reason, _concluded(arms, said, chosen, reason, rate_ms, spendable_ms), signals)


def _against_signals(
    arm: Arm, routing: Routing, curve: GainCurve | None, signals: str, limits: tuple[float, int | None]
) -> list[Said | None]:
    if routing.allowed and Strategy.SIGNALS not in routing.allowed:
        return [(Verdict.NOT_ALLOWED, ("the request's routing excludes signals",))]
    if curve is None:
        return [(Verdict.NO_GAIN, ("no calibrated gain for signals {!r}", signals))]
    return _objections([arm], *limits)


def _offers(
    view: RerankerView,
    ks: tuple[int, ...],
    routing: Routing,
    profile: Profile,
    signals: str,
    traits: Traits,
    limits: tuple[float, int | None],
) -> tuple[list[Arm], list[Said | None]]:
    """One reranker's arms, and what speaks against each."""
    curve = reranker_curve(profile, view, signals)
    state = view.availability.state
    against: Said | None = None
    if routing.allowed and view.strategy not in routing.allowed:
        against = (Verdict.NOT_ALLOWED, ("the request's routing excludes {}", view.strategy.value))
    elif state is _OFF:
        against = (Verdict.OFF, ("{}", view.availability.detail or state.value))
    elif view.work.refusal:
        against = (Verdict.CANNOT_SCORE, ("{}", view.work.refusal))
    elif curve is None:
        hint = "no calibrated gain for signals {!r}: give it one in a profile, or set expected_gain"
        against = (Verdict.NO_GAIN, (hint, signals))
    if against is not None and (state is _OFF or view.work.refusal):
        # It says nothing about its work: one line is all there is to report.
        return [Arm(view.strategy, view.name, ks[-1], 0.0, 0.0, 0.0, 0, 0.0)], [against]
    arms = reranker_arms(view, ks, curve, trait_shift(profile, view.name, signals, traits))
    if against is not None:
        return arms, [against] * len(arms)
    objections = _behind_others(view, arms, _objections(arms, *limits), limits[0])
    if state is not _READY:
        # Last: what would not fit anyway is not waiting for its model.
        waiting = Verdict.NOT_READY if state is State.WARMING else Verdict.CIRCUIT_OPEN
        why: Said = (waiting, ("{}", view.availability.detail or state.value))
        objections = [objection or why for objection in objections]
    return arms, objections


def _objections(arms: list[Arm], spendable_ms: float, max_micro_usd: int | None) -> list[Said | None]:
    """Gain, time, money, in this order; None where all are well."""
    objections: list[Said | None] = []
    for _, _, _, _, p95_ms, gain, micro_usd, lower, _ in arms:
        against: Said | None = None
        if gain <= 0.0:
            against = (Verdict.NO_GAIN, ("expected gain {:.3f} is not above 0", gain))
        elif lower < -MAX_HARM:
            words = "may hurt: lower bound {:.3f} of its gain {:.3f} is below {:.3f}"
            against = (Verdict.NO_GAIN, (words, lower, gain, -MAX_HARM))
        elif not p95_ms <= spendable_ms:  # a prediction that is not a number does not fit
            against = (Verdict.OVER_BUDGET, (OVER_BUDGET, p95_ms, spendable_ms))
        elif max_micro_usd is not None and micro_usd > max_micro_usd:
            against = (Verdict.OVER_COST, (OVER_COST, micro_usd, max_micro_usd))
        objections.append(against)
    return objections


def _behind_others(
    view: RerankerView, arms: list[Arm], objections: list[Said | None], spendable_ms: float
) -> list[Said | None]:
    """Where nothing but the queue keeps ``queued_k`` candidates from being scored, fewer are not scored either.

    Under overload many callers would otherwise get too little to be of use, at the expense of those who could be
    served well (simulated at ten times the capacity: 13 % have 16 candidates scored, and 20 % with this rule).
    """
    least = min(view.queued_k, arms[-1].rerank_k)
    tokens = view.work.tokens_at(least)
    p95_ms = view.pace.at(tokens).p95_ms
    if not tokens or not p95_ms <= spendable_ms < p95_ms + view.queue_ms:
        return objections
    too_few: Said = (Verdict.OVER_BUDGET, ("fewer than {} candidates are not worth a place behind others", least))
    return [
        objection or (too_few if arm.rerank_k < least else None)
        for arm, objection in zip(arms, objections, strict=True)
    ]


def _best(arms: list[Arm], said: list[Said | None], rate_ms: float) -> Arm:
    """The arm with the largest gain - rate_ms * p50 that nothing speaks against; the first one is first-stage order.

    Of equal ones the larger gain wins, then the faster arm, then the one that was configured first.
    """
    best = arms[0]
    best_value = best_gain = best_ms = 0.0
    for arm, objection in zip(arms, said, strict=True):
        if objection is None:
            _, _, _, p50_ms, _, gain, _, _, _ = arm
            value = gain - rate_ms * p50_ms
            if value < best_value:
                continue
            if value > best_value or gain > best_gain or (gain == best_gain and p50_ms < best_ms):
                best, best_value, best_gain, best_ms = arm, value, gain, p50_ms
    return best


def _reason(said: list[Said | None]) -> Reason:
    """Why first-stage order won. Time and money come before readiness, in an arm's verdict as well as here."""
    verdicts = {objection[0] for objection in said if objection is not None}
    if Verdict.OVER_BUDGET in verdicts or Verdict.OVER_COST in verdicts:
        return Reason.BUDGET_TOO_SMALL
    if Verdict.NOT_READY in verdicts or Verdict.CIRCUIT_OPEN in verdicts:
        return Reason.NOT_READY
    return Reason.NO_GAIN


def _concluded(
    arms: list[Arm], said: list[Said | None], chosen: Arm, reason: Reason, rate_ms: float, spendable_ms: float
) -> list[ConsideredArm]:
    """Every arm with its final verdict."""
    rival, best_gain, best_ms = chosen.label, chosen.gain, chosen.p50_ms
    considered = []
    for arm, objection in zip(arms, said, strict=True):
        if objection is not None:
            verdict, why = objection
        elif arm is chosen:
            verdict, why = _why_chosen(arm, reason, spendable_ms)
        elif (added := arm[5] - best_gain) > 0.0:
            longer_ms = arm[3] - best_ms
            words = "adds {:.4f} for {:.1f} ms more; has to add {:.4f}"
            verdict, why = _NOT_WORTH_ITS_TIME, (words, added, longer_ms, rate_ms * longer_ms)
        else:
            verdict, why = _LOWER_GAIN, ("expected gain {:.3f}; {} has {:.3f}", arm[5], rival, best_gain)
        considered.append(conclude(arm, verdict, why))
    return considered


def _why_chosen(arm: Arm, reason: Reason, spendable_ms: float) -> Said:
    if arm.strategy is Strategy.NONE:
        return Verdict.CHOSEN, (_FIRST_STAGE[reason],)
    words = "expected gain {:.3f} for p50 {:.1f} ms; p95 {:.1f} ms fits {:.1f} ms"
    return Verdict.CHOSEN, (words, arm.gain, arm.p50_ms, arm.p95_ms, spendable_ms)


# Reading an enum's member costs half a microsecond in Python 3.11; these are read again and again.
_OFF: Final = State.OFF
_READY: Final = State.READY
_LOWER_GAIN: Final = Verdict.LOWER_GAIN
_NOT_WORTH_ITS_TIME: Final = Verdict.NOT_WORTH_ITS_TIME

_FIRST_STAGE: Final = {
    Reason.BUDGET_TOO_SMALL: "first-stage order: the arms that would help do not fit the time or the price",
    Reason.NOT_READY: "first-stage order: the arms that would help are not ready",
    Reason.NO_GAIN: "first-stage order: no available arm is expected to improve on it and earn its time",
}
