"""choose(...): which arm answers this request, and why every other one does not.

Everything is an argument: the same arguments give the same decision, always (invariant 4 of the design's
section 6), and every answer that is less than planned starts from a reason and verdicts given here (invariant
5).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from router.arms import State, Strategy
from router.candidates import (
    OVER_BUDGET,
    OVER_COST,
    Arm,
    decide,
    grid,
    none_arm,
    reranker_arms,
    reranker_curve,
    signals_arm,
    signals_curve,
)
from router.decision import (
    ConsideredArm,
    Decision,
    Reason,
    RerankerOffError,
    RerankerView,
    Routing,
    UnknownRerankerError,
    Verdict,
)
from router.forced import choose_forced
from router.profile import Profile, signal_set
from router.traits import Traits

__all__ = [
    "MAX_HARM",
    "ConsideredArm",
    "Decision",
    "Reason",
    "RerankerOffError",
    "RerankerView",
    "Routing",
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
    fits ``spendable_ms``, its price fits the purse, its reranker is ready and the routing allows it. From
    first-stage order on, eligible arms are walked from fast to slow (p50), and a slower one is taken over the
    current one if it adds at least ``profile.min_gain_per_second`` for every second that it adds: the result
    maximises gain - min_gain_per_second * p50. Forced arms: see `choose_forced`.

    A larger budget never lowers that maximum. It can lower the gain alone, and then saves time, in one case:
    where it admits an arm that is faster in the median than the one taken before, yet slower at p95.

    Raises UnknownRerankerError or RerankerOffError for a forced arm that is not there or is switched off.
    """
    signals = signal_set(profile, traits)
    if routing.strategy is not None or routing.reranker:
        return choose_forced(
            documents=traits.documents,
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

    arms = [none]
    limits = (spendable_ms, max_micro_usd)
    ks = grid(profile, traits.documents, routing.rerank_k)
    if signals:
        arms.append(_judged_signals(ks, routing, profile, signals, signals_ms, traits.documents, limits))
    for view in rerankers:
        arms += _judged_reranker(view, ks, routing, profile, signals, limits)

    rate_ms = profile.min_gain_per_second / 1000.0
    chosen = _walk(none, [arm for arm in arms if arm.verdict is None and arm is not none], rate_ms)
    reason = _reason(arms) if chosen is none else Reason.BEST_EXPECTED_GAIN
    _explain(arms, chosen, reason, rate_ms, spendable_ms)
    return decide(chosen, reason, arms, signals)


def _judged_signals(
    ks: tuple[int, ...],
    routing: Routing,
    profile: Profile,
    signals: str,
    signals_ms: float,
    documents: int,
    limits: tuple[float, int | None],
) -> Arm:
    curve = signals_curve(profile, signals)
    arm = signals_arm(ks[0] if routing.rerank_k else documents, signals_ms, curve)
    if routing.allowed and Strategy.SIGNALS not in routing.allowed:
        arm.say(Verdict.NOT_ALLOWED, "the request's routing excludes signals")
    elif curve is None:
        arm.say(Verdict.NO_GAIN, "no calibrated gain for signals {!r}", signals)
    else:
        _judge(arm, limits)
    return arm


def _judged_reranker(
    view: RerankerView,
    ks: tuple[int, ...],
    routing: Routing,
    profile: Profile,
    signals: str,
    limits: tuple[float, int | None],
) -> list[Arm]:
    """One reranker's arms. Those that nothing speaks against keep verdict None."""
    curve = reranker_curve(profile, view, signals)
    state = view.availability.state
    if routing.allowed and view.strategy not in routing.allowed:
        against = (Verdict.NOT_ALLOWED, "the request's routing excludes {}", view.strategy.value)
    elif state is State.OFF:
        against = (Verdict.OFF, "{}", view.availability.detail or state.value)
    elif view.work.refusal:
        against = (Verdict.CANNOT_SCORE, "{}", view.work.refusal)
    elif curve is None:
        hint = "no calibrated gain for signals {!r}: give it one in a profile, or set expected_gain"
        against = (Verdict.NO_GAIN, hint, signals)
    else:
        against = None
    if against is not None and (state is State.OFF or view.work.refusal):
        # It says nothing about its work: one line is all there is to report.
        off = Arm(view.strategy, view.name, ks[-1], 0.0, 0.0, 0.0, 0.0, 0)
        off.say(*against)
        return [off]
    arms = reranker_arms(view, ks, curve)
    for arm in arms:
        if against is not None:
            arm.say(*against)
            continue
        _judge(arm, limits)
        # Last: what would not fit anyway is not waiting for its model.
        if arm.verdict is None and state is not State.READY:
            waiting = Verdict.NOT_READY if state is State.WARMING else Verdict.CIRCUIT_OPEN
            arm.say(waiting, "{}", view.availability.detail or state.value)
    return arms


def _judge(arm: Arm, limits: tuple[float, int | None]) -> None:
    """Gain, time, money, in this order; leaves the verdict None if all are well."""
    spendable_ms, max_micro_usd = limits
    if arm.gain <= 0.0:
        arm.say(Verdict.NO_GAIN, "expected gain {:.3f} is not above 0", arm.gain)
    elif arm.lower < -MAX_HARM:
        words = "may hurt: lower bound {:.3f} of its gain {:.3f} is below {:.3f}"
        arm.say(Verdict.NO_GAIN, words, arm.lower, arm.gain, -MAX_HARM)
    elif not arm.p95_ms <= spendable_ms:  # a prediction that is not a number does not fit
        arm.say(Verdict.OVER_BUDGET, OVER_BUDGET, arm.p95_ms, spendable_ms)
    elif max_micro_usd is not None and arm.micro_usd > max_micro_usd:
        arm.say(Verdict.OVER_COST, OVER_COST, arm.micro_usd, max_micro_usd)


_BY_GAIN: Final = attrgetter("gain")
_BY_TIME: Final = attrgetter("p50_ms")


def _walk(none: Arm, eligible: list[Arm], rate_ms: float) -> Arm:
    """From fast to slow, up whenever the added gain pays for the added time.

    Where arms are as fast as each other the better one is met first, then the one that was configured first.
    """
    current = none
    eligible.sort(key=_BY_GAIN, reverse=True)
    eligible.sort(key=_BY_TIME)
    for arm in eligible:
        added = arm.gain - current.gain
        if added > 0.0 and added >= rate_ms * (arm.p50_ms - current.p50_ms):
            current = arm
    return current


def _reason(arms: list[Arm]) -> Reason:
    """Why first-stage order won. Time and money come before readiness, in an arm's verdict as well as here."""
    verdicts = {arm.verdict for arm in arms}
    if Verdict.OVER_BUDGET in verdicts or Verdict.OVER_COST in verdicts:
        return Reason.BUDGET_TOO_SMALL
    if Verdict.NOT_READY in verdicts or Verdict.CIRCUIT_OPEN in verdicts:
        return Reason.NOT_READY
    return Reason.NO_GAIN


def _explain(arms: list[Arm], chosen: Arm, reason: Reason, rate_ms: float, spendable_ms: float) -> None:
    """Give the eligible arms their final verdicts."""
    rival = chosen.label
    for arm in arms:
        if arm is chosen:
            if arm.strategy is Strategy.NONE:
                arm.say(Verdict.CHOSEN, _FIRST_STAGE[reason])
            else:
                words = "expected gain {:.3f} for p50 {:.1f} ms; p95 {:.1f} ms fits {:.1f} ms"
                arm.say(Verdict.CHOSEN, words, arm.gain, arm.p50_ms, arm.p95_ms, spendable_ms)
        elif arm.verdict is None:
            added = arm.gain - chosen.gain
            if added > 0.0:
                longer_ms = arm.p50_ms - chosen.p50_ms
                words = "adds {:.4f} for {:.1f} ms more; has to add {:.4f}"
                arm.say(Verdict.NOT_WORTH_ITS_TIME, words, added, longer_ms, rate_ms * longer_ms)
            else:
                arm.say(Verdict.LOWER_GAIN, "expected gain {:.3f}; {} has {:.3f}", arm.gain, rival, chosen.gain)


_FIRST_STAGE: Final = {
    Reason.BUDGET_TOO_SMALL: "first-stage order: the arms that would help do not fit the time or the price",
    Reason.NOT_READY: "first-stage order: the arms that would help are not ready",
    Reason.NO_GAIN: "first-stage order: no available arm is expected to improve on it and earn its time",
}
