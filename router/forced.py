"""The caller named a strategy or a reranker: that arm runs, as far as the budget allows."""

from __future__ import annotations

from collections.abc import Sequence

from router.arms import State, Strategy
from router.candidates import (
    OVER_BUDGET,
    OVER_COST,
    Arm,
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
from router.profile import SIGNALS_ARM, Profile
from router.traits import Traits

_STATE_VERDICT = {
    State.WARMING: Verdict.NOT_READY,
    State.CIRCUIT_OPEN: Verdict.CIRCUIT_OPEN,
    State.OFF: Verdict.OFF,
}


def choose_forced(
    *,
    traits: Traits,
    spendable_ms: float,
    max_micro_usd: int | None,
    routing: Routing,
    profile: Profile,
    signals: str,
    rerankers: Sequence[RerankerView],
    signals_ms: float,
) -> Decision:
    """Decide within the forced family.

    Time is soft here: the arm is taken even if nothing fits, because scoring stops when time is up and uses
    what it has. Money is not: what does not fit the purse is never taken, and if nothing does the first-stage
    order is. Raises UnknownRerankerError, UnknownCollectionError or RerankerOffError.
    """
    if routing.strategy in (Strategy.NONE, Strategy.SIGNALS):
        if routing.reranker:
            raise UnknownRerankerError(
                f"strategy {routing.strategy.value!r} uses no reranker, got {routing.reranker!r}; name only one of them"
            )
        return _without_model(traits, routing, profile, signals, signals_ms)
    family = _family(routing, rerankers)
    usable = [view for view in family if view.availability.state is not State.OFF and not view.work.refusal]
    if not usable:
        reasons = "; ".join(_why_not(view) for view in family)
        raise (
            UnknownCollectionError(reasons) if all(view.work.unknown for view in family) else RerankerOffError(reasons)
        )
    if traits.documents == 0:
        return decide(none_arm(), Reason.NOTHING_TO_DO, (), signals)

    ks = grid(profile, traits.documents, routing.rerank_k)
    offers = []
    arms: list[Arm] = []
    for view in usable:
        curve = reranker_curve(profile, view, signals)
        own = reranker_arms(view, ks, curve, trait_shift(profile, view.name, signals, traits))
        arms += own
        affordable = [arm for arm in own if max_micro_usd is None or arm.micro_usd <= max_micro_usd]
        fitting = [arm for arm in affordable if arm.p95_ms <= spendable_ms]
        if affordable:
            offers.append((view, fitting[-1] if fitting else affordable[0], bool(fitting)))
    if not offers:
        none = none_arm()
        taken = conclude(none, Verdict.CHOSEN, ("the forced arm does not fit the price limit",))
        dear = [conclude(arm, Verdict.OVER_COST, (OVER_COST, arm.micro_usd, max_micro_usd or 0)) for arm in arms]
        return decide(none, Reason.BUDGET_TOO_SMALL, (taken, *dear), signals)

    # What can run now and fits comes first; then the best expected gain; then the name, to be deterministic.
    view, chosen, fits = min(
        offers,
        key=lambda offer: (
            offer[0].availability.state is not State.READY,
            not offer[2],
            -offer[1].gain,
            offer[0].name,
        ),
    )
    states = {other.name: other for other in usable}
    detail = _chosen_detail(view, chosen, fits, spendable_ms)
    if reranker_curve(profile, view, signals) is None:
        detail += f"; its gain is not calibrated for signals {signals!r}"
    considered = [
        conclude(arm, Verdict.CHOSEN, ("{}", detail))
        if arm is chosen
        else _explained(arm, chosen, states[arm.reranker], spendable_ms, max_micro_usd)
        for arm in arms
    ]
    return decide(chosen, Reason.FORCED, considered, signals)


def _without_model(traits: Traits, routing: Routing, profile: Profile, signals: str, signals_ms: float) -> Decision:
    if routing.strategy is Strategy.NONE:
        arm = none_arm()
        considered = conclude(arm, Verdict.CHOSEN, ("forced: first-stage order",))
    else:
        curve = signals_curve(profile, signals)
        shift = trait_shift(profile, SIGNALS_ARM, signals, traits)
        arm = signals_arm(min(routing.rerank_k or traits.documents, traits.documents), signals_ms, curve, shift)
        unknown = ", whose gain is not calibrated" if curve is None else ""
        considered = conclude(arm, Verdict.CHOSEN, ("forced: fusion of signals {!r}{}", signals, unknown))
    return decide(arm, Reason.FORCED, (considered,), signals)


def _family(routing: Routing, rerankers: Sequence[RerankerView]) -> list[RerankerView]:
    """The rerankers that the caller's words mean; at least one."""
    configured = ", ".join(f"{view.name} ({view.strategy.value})" for view in rerankers) or "none"
    if not routing.reranker:
        family = [view for view in rerankers if view.strategy is routing.strategy]
        if not family:
            wanted = "" if routing.strategy is None else routing.strategy.value
            raise UnknownRerankerError(f"no reranker implements {wanted!r}; configured: {configured}")
        return family
    for view in rerankers:
        if view.name == routing.reranker:
            if routing.strategy is not None and view.strategy is not routing.strategy:
                raise UnknownRerankerError(
                    f"reranker {view.name!r} implements {view.strategy.value!r}, "
                    f"not {routing.strategy.value!r}; configured: {configured}"
                )
            return [view]
    raise UnknownRerankerError(f"no reranker is named {routing.reranker!r}; configured: {configured}")


def _explained(
    arm: Arm, chosen: Arm, view: RerankerView, spendable_ms: float, max_micro_usd: int | None
) -> ConsideredArm:
    """Why this arm of the family is not the one taken."""
    if max_micro_usd is not None and arm.micro_usd > max_micro_usd:
        return conclude(arm, Verdict.OVER_COST, (OVER_COST, arm.micro_usd, max_micro_usd))
    if arm.p95_ms > spendable_ms:
        return conclude(arm, Verdict.OVER_BUDGET, (OVER_BUDGET, arm.p95_ms, spendable_ms))
    if view.availability.state is not State.READY:
        return conclude(arm, _STATE_VERDICT[view.availability.state], ("{}", _state(view)))
    words = "expected gain {:.3f}; {} was preferred with {:.3f}"
    return conclude(arm, Verdict.LOWER_GAIN, (words, arm.gain, chosen.label, chosen.gain))


def _chosen_detail(view: RerankerView, arm: Arm, fits: bool, spendable_ms: float) -> str:
    if view.availability.state is not State.READY:
        return f"forced: {_state(view)}"
    if fits:
        return f"forced: p95 {arm.p95_ms:.1f} ms fits {spendable_ms:.1f} ms"
    outcome = "one call scores all or nothing" if view.whole_list else "scoring stops when time is up"
    return f"forced: p95 {arm.p95_ms:.1f} ms > {spendable_ms:.1f} ms left; {outcome}"


def _why_not(view: RerankerView) -> str:
    if view.availability.state is State.OFF:
        return f"reranker {view.name!r} is off: {_state(view)}"
    return f"reranker {view.name!r} can't score these documents: {view.work.refusal}"


def _state(view: RerankerView) -> str:
    return view.availability.detail or view.availability.state.value
