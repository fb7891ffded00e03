"""The arms of one request: every reranker at every candidate count, with predicted time, price and gain."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from router.arms import Strategy
from router.decision import ConsideredArm, Decision, Reason, RerankerView, Verdict
from router.gain import assumed_curve, read_curve
from router.profile import SIGNALS_ARM, GainCurve, Profile

OVER_BUDGET: Final = "p95 {:.1f} ms > {:.1f} ms left"
OVER_COST: Final = "{} micro-USD > {} allowed"


@dataclass(slots=True)
class Arm:
    """One arm while it is being judged; ``verdict`` None means that nothing speaks against it so far."""

    strategy: Strategy
    reranker: str
    rerank_k: int
    p50_ms: float
    p95_ms: float
    gain: float
    lower: float
    micro_usd: int
    verdict: Verdict | None = None
    why: tuple[str | float, ...] = ()

    def say(self, verdict: Verdict, template: str, *facts: str | float) -> None:
        """Conclude; words and facts are put together only when somebody reads them (`ConsideredArm.detail`)."""
        self.verdict = verdict
        self.why = (template, *facts)

    @property
    def label(self) -> str:
        """Short name for a person: ``minilm@50``."""
        return f"{self.reranker or self.strategy.value}@{self.rerank_k}" if self.rerank_k else self.strategy.value


def none_arm() -> Arm:
    """First-stage order: no time, no price, no gain."""
    return Arm(Strategy.NONE, "", 0, 0.0, 0.0, 0.0, 0.0, 0)


def signals_arm(k: int, signals_ms: float, curve: GainCurve | None) -> Arm:
    """Fusion of the first ``k`` candidates' signals. Arithmetic only, so its p50 and p95 are the same."""
    gain, lower = (0.0, 0.0) if curve is None else read_curve(curve, (k,))[0]
    return Arm(Strategy.SIGNALS, "", k, signals_ms, signals_ms, gain, lower, 0)


def reranker_arms(view: RerankerView, ks: Sequence[int], curve: GainCurve | None) -> list[Arm]:
    """The reranker at each of ``ks`` (ascending), cut to what it can take. Without a curve the gain is 0."""
    if view.max_documents is not None:
        ks = sorted({min(k, view.max_documents) for k in ks})
    work, queue_ms, strategy, name = view.work, view.queue_ms, view.strategy, view.name
    p50_base, p50_rate, p95_base, p95_rate = view.pace
    p50_base, p95_base, price = p50_base + queue_ms, p95_base + queue_ms, work.micro_usd_per_token
    tokens, counted = work.fixed_tokens, 0
    gains = [(0.0, 0.0)] * len(ks) if curve is None else read_curve(curve, tuple(ks))
    arms = []
    for k, (gain, lower) in zip(ks, gains, strict=True):
        tokens += sum(work.tokens[counted:k])
        counted = k
        # Rounded up, so that nothing with a price ever passes for free.
        micro_usd = math.ceil(tokens * price) if price else 0
        arms.append(
            Arm(strategy, name, k, p50_base + p50_rate * tokens, p95_base + p95_rate * tokens, gain, lower, micro_usd)
        )
    return arms


def grid(profile: Profile, documents: int, rerank_k: int) -> tuple[int, ...]:
    """Candidate counts to look at: the caller's, or the profile's below ``documents`` plus, in range, all."""
    if rerank_k > 0:
        return (min(rerank_k, documents),)
    ks = tuple(k for k in profile.rerank_ks if k < documents)
    return (*ks, documents) if documents <= profile.rerank_ks[-1] else ks


def signals_curve(profile: Profile, signals: str) -> GainCurve | None:
    """Calibrated gain of SIGNALS for this signal set; None if there is none."""
    arm = profile.arms.get(SIGNALS_ARM)
    return None if arm is None else arm.gains.get(signals)


def reranker_curve(profile: Profile, view: RerankerView, signals: str) -> GainCurve | None:
    """Calibrated gain for this signal set, else the operator's assumption, else None."""
    arm = profile.arms.get(view.name)
    curve = None if arm is None else arm.gains.get(signals)
    if curve is None and view.assumed_gain is not None:
        return assumed_curve(view.assumed_gain)
    return curve


# A third of the time that ConsideredArm(...) takes; twenty are made per request.
_new_considered_arm = functools.partial(tuple.__new__, ConsideredArm)


def decide(chosen: Arm, reason: Reason, arms: Iterable[Arm], signals: str) -> Decision:
    """Freeze the outcome; by now every arm has its verdict."""
    considered = []
    for arm in arms:
        if arm.verdict is None:
            raise AssertionError(f"arm {arm.label} was left without a verdict")
        fields = (
            *(arm.strategy, arm.reranker, arm.rerank_k, arm.p50_ms, arm.p95_ms),
            *(arm.gain, arm.micro_usd, arm.verdict, arm.why),
        )
        considered.append(_new_considered_arm(fields))
    return Decision(
        strategy=chosen.strategy,
        reranker=chosen.reranker,
        planned_k=chosen.rerank_k,
        reason=reason,
        predicted_p50_ms=chosen.p50_ms,
        predicted_p95_ms=chosen.p95_ms,
        expected_gain=chosen.gain,
        considered=tuple(considered),
        signal_set=signals,
    )
