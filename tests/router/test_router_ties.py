"""Arms that are worth the same: the larger gain wins, then the faster arm, then the one configured first.

Figures are powers of two, so that equal values are equal to the last bit: 7.8125 nDCG@10 a second are 1/128 a
millisecond.
"""

from __future__ import annotations

from itertools import permutations

from router_cases import arm_profile, decide, make_profile, make_traits, view

from router.arms import Strategy
from router.policy import Decision, Verdict

RATE = 7.8125
K = 8


def decided(gains: dict[str, float], ms: dict[str, float], rate: float = RATE) -> Decision:
    """AUTO over one arm for each name, in the order of ``gains``: its gain at k = 8, and its p50 in ``ms``."""
    arms = {name: arm_profile(Strategy.CROSS_ENCODER, ((K, gain),), lower=0.0) for name, gain in gains.items()}
    views = [view(name, tokens=1, ms_per_token=ms[name] / K) for name in gains]
    profile = make_profile(arms, rerank_ks=(K,), min_gain_per_second=rate)
    return decide(views, profile, traits=make_traits(K))


def test_larger_gain_wins_though_it_is_slower() -> None:
    """0.5 in 8 ms and 0.46875 in 4 ms are both worth 0.4375: the former, wherever it stands."""
    for names in permutations(["slow", "fast"]):
        gains = {"slow": 0.5, "fast": 0.46875}
        decision = decided({name: gains[name] for name in names}, {"slow": 8.0, "fast": 4.0})
        assert (decision.reranker, decision.expected_gain, decision.predicted_p50_ms) == ("slow", 0.5, 8.0)


def test_anything_wins_over_first_stage_order_of_the_same_worth() -> None:
    """A gain of 0.0625 in 8 ms is worth exactly nothing, like first-stage order: its gain is larger. A little slower,
    and it has not earned its time."""
    assert decided({"ce": 0.0625}, {"ce": 8.0}).reranker == "ce"
    slower = decided({"ce": 0.0625}, {"ce": 8.0000001})
    assert slower.strategy is Strategy.NONE
    assert [one.verdict for one in slower.considered if one.reranker] == [Verdict.NOT_WORTH_ITS_TIME]


def test_of_equal_gains_the_faster_arm_wins() -> None:
    """Where time is free, 0.5 in 8 ms and 0.5 in 4 ms are worth the same: the latter, wherever it stands."""
    for names in permutations(["slow", "fast"]):
        decision = decided(dict.fromkeys(names, 0.5), {"slow": 8.0, "fast": 4.0}, rate=0.0)
        assert (decision.reranker, decision.predicted_p50_ms) == ("fast", 4.0)


def test_of_equal_arms_the_first_configured_wins() -> None:
    """Same gain, same time: the order of the configuration decides, not the name."""
    for names in permutations("abc"):
        assert decided(dict.fromkeys(names, 0.5), dict.fromkeys(names, 4.0)).reranker == names[0]


def test_worth_comes_before_all_of_it() -> None:
    """A smaller gain that saves more time than it costs in gain is taken: 0.46876 in 4 ms over 0.5 in 8 ms."""
    for names in permutations(["slow", "fast"]):
        gains = {"slow": 0.5, "fast": 0.46876}
        decision = decided({name: gains[name] for name in names}, {"slow": 8.0, "fast": 4.0})
        assert decision.reranker == "fast"
