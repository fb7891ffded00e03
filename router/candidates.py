"""The arms of one request: every reranker at every candidate count, with predicted time, price and gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from router.arms import Strategy
from router.decision import ConsideredArm, Decision, Reason, RerankerView, Verdict
from router.gain import assumed_curve, read_curve, shifted, trait_gain
from router.profile import SIGNALS_ARM, GainCurve, Profile
from router.traits import Traits

OVER_BUDGET: Final = "p95 {:.1f} ms > {:.1f} ms left"
OVER_COST: Final = "{} micro-USD > {} allowed"


class Arm(NamedTuple):
    """One arm, as far as it can be told without the others: ms with queue, nDCG@10, micro-USD.

    ``lower`` is the lower end of the gain's interval; ``by_traits`` is how much of the gain is this query's own, by its
    traits. A named tuple because twenty are made per request, and a
    dataclass takes four times as long to make.
    """

    strategy: Strategy
    reranker: str
    rerank_k: int
    p50_ms: float
    p95_ms: float
    gain: float
    micro_usd: int
    lower: float
    by_traits: float = 0.0

    @property
    def label(self) -> str:
        """Short name for a person: ``minilm@50``."""
        return f"{self.reranker or self.strategy.value}@{self.rerank_k}" if self.rerank_k else self.strategy.value


# Half of the time that Arm(...) and ConsideredArm(...) take.
_make = tuple.__new__


Said: TypeAlias = tuple[Verdict, tuple[str | float, ...]]
"""A verdict and why: a template and its facts, put into words only when somebody reads them."""


def conclude(arm: Arm, verdict: Verdict, why: tuple[str | float, ...]) -> ConsideredArm:
    """The arm with its verdict."""
    strategy, reranker, rerank_k, p50_ms, p95_ms, gain, micro_usd, _, by_traits = arm
    if by_traits:
        why = (f"{why[0]}; {{:+.3f}} of its gain by the query's traits", *why[1:], by_traits)
    return _make(ConsideredArm, (strategy, reranker, rerank_k, p50_ms, p95_ms, gain, micro_usd, verdict, why))


def none_arm() -> Arm:
    """First-stage order: no time, no price, no gain."""
    return Arm(Strategy.NONE, "", 0, 0.0, 0.0, 0.0, 0, 0.0)


def signals_arm(k: int, signals_ms: float, curve: GainCurve | None, by_traits: float = 0.0) -> Arm:
    """Fusion of the first ``k`` candidates' signals. Arithmetic only: p50 and p95 are the same, and it is never cut."""
    if curve is None:
        return Arm(Strategy.SIGNALS, "", k, signals_ms, signals_ms, 0.0, 0, 0.0)
    read = read_curve(curve, (k,), cut_short=False)
    gain, lower = shifted(read, (k,), curve, by_traits)[0]
    return Arm(Strategy.SIGNALS, "", k, signals_ms, signals_ms, gain, 0, lower, gain - read[0][0])


def reranker_arms(view: RerankerView, ks: Sequence[int], curve: GainCurve | None, by_traits: float = 0.0) -> list[Arm]:
    """The reranker at each of ``ks`` (ascending), cut to what it can take. Without a curve the gain is 0.

    ``by_traits`` is what `trait_shift` gives for it.
    """
    if view.max_documents is not None:
        ks = sorted({min(k, view.max_documents) for k in ks})
    work, queue_ms, strategy, name = view.work, view.queue_ms, view.strategy, view.name
    p50_base, p50_rate, p95_base, p95_rate = view.pace
    p50_base, p95_base, price = p50_base + queue_ms, p95_base + queue_ms, work.micro_usd_per_token
    tokens, counted = work.fixed_tokens, 0
    read = [(0.0, 0.0)] * len(ks) if curve is None else read_curve(curve, tuple(ks))
    gains = read if curve is None else shifted(read, ks, curve, by_traits)
    arms = []
    for k, (gain, lower), (plain, _) in zip(ks, gains, read, strict=True):
        tokens += sum(work.tokens[counted:k])
        counted = k
        # Rounded up, so that nothing with a price ever passes for free.
        micro_usd = math.ceil(tokens * price) if price else 0
        if tokens:
            p50_ms, p95_ms = p50_base + p50_rate * tokens, p95_base + p95_rate * tokens
        else:  # all of it is kept from earlier requests
            p50_ms = p95_ms = 0.0
        arms.append(_make(Arm, (strategy, name, k, p50_ms, p95_ms, gain, micro_usd, lower, gain - plain)))
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


def trait_shift(profile: Profile, arm: str, signals: str, traits: Traits) -> float:
    """What this query's traits add to the gain of ``arm`` (a reranker or `SIGNALS_ARM`); 0 where nothing was found."""
    known = profile.arms.get(arm)
    slopes = None if known is None else known.traits.get(signals)
    return trait_gain(slopes, traits) if slopes else 0.0


def reranker_curve(profile: Profile, view: RerankerView, signals: str) -> GainCurve | None:
    """Calibrated gain for this signal set, else the operator's assumption, else None."""
    arm = profile.arms.get(view.name)
    curve = None if arm is None else arm.gains.get(signals)
    if curve is None and view.assumed_gain is not None:
        return assumed_curve(view.assumed_gain)
    return curve


def decide(chosen: Arm, reason: Reason, considered: Iterable[ConsideredArm], signals: str) -> Decision:
    """The outcome, with every arm's verdict."""
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
