"""Small builders for router tests: a profile, traits and views with round numbers, changed where a test needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.arms import Availability, State, Strategy, Work
from router.latency import LatencyPrior, Pace
from router.policy import Decision, RerankerView, Routing, choose
from router.profile import ArmProfile, FusionWeights, GainCurve, GainPoint, Profile
from router.traits import Traits

CURVE = ((10, 0.05), (25, 0.08), (50, 0.10), (100, 0.11))


def make_traits(documents: int = 50, signals: tuple[str, ...] = ("bm25",)) -> Traits:
    return Traits(3, False, False, documents, 800.0, signals, 0.5)


def arm_profile(
    strategy: Strategy,
    points: tuple[tuple[int, float], ...] = CURVE,
    lower: float = 0.02,
    signals: str = "bm25",
) -> ArmProfile:
    weights = {signals: FusionWeights(1.0, {"bm25": 0.5})}
    curve = GainCurve(tuple(GainPoint(k, gain, min(gain, lower)) for k, gain in points))
    return ArmProfile(strategy, {signals: curve}, weights, LatencyPrior(5.0, 0.05))


def make_profile(
    arms: Mapping[str, ArmProfile],
    rerank_ks: tuple[int, ...] = (10, 25, 50, 100),
    min_gain_per_second: float = 0.1,
) -> Profile:
    return Profile("default", "rev", arms, rerank_ks, min_gain_per_second, frozenset({"bm25", "dense"}))


def view(
    name: str,
    strategy: Strategy = Strategy.CROSS_ENCODER,
    *,
    ms_per_token: float = 0.1,
    tokens: int = 10,
    spread: float = 1.5,
    state: State = State.READY,
    detail: str = "",
    price: float = 0.0,
    **more: Any,
) -> RerankerView:
    """A reranker whose every candidate has ``tokens`` tokens: p50 = ms_per_token * tokens * k, p95 = spread * p50."""
    pace = Pace(0.0, ms_per_token, 0.0, spread * ms_per_token)
    work = Work(tokens=(tokens,) * 1000, micro_usd_per_token=price)
    return RerankerView(name, strategy, Availability(state, detail), work, pace, **more)


def decide(
    rerankers: Sequence[RerankerView],
    profile: Profile,
    *,
    spendable_ms: float = 1000.0,
    max_micro_usd: int | None = None,
    traits: Traits | None = None,
    signals_ms: float = 0.1,
    **routing: Any,
) -> Decision:
    return choose(
        traits=traits or make_traits(),
        spendable_ms=spendable_ms,
        max_micro_usd=max_micro_usd,
        routing=Routing(**routing),
        profile=profile,
        rerankers=rerankers,
        signals_ms=signals_ms,
    )
