"""Reading profiles: what is accepted, and how precisely the rest is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from router_cases import make_traits

from router.arms import Strategy
from router.latency import LatencyPrior
from router.profile import FusionWeights, GainCurve, GainPoint, ProfileError, parse, signal_set

VALID: dict[str, Any] = json.loads("""
{"format": "millirank.profile/2", "corpus": "default", "rerank_ks": [10, 50], "min_gain_per_second": 0.1,
 "known_signals": ["dense", "bm25"], "about": {"collections": 6},
 "arms": {
   "signals": {"strategy": "signals", "latency": {"base_ms": 0.05, "ms_per_token": 0},
     "gains": {"bm25+dense": {"points": [[10, 0.01, 0.0]]}},
     "weights": {"bm25+dense": {"signals": {"bm25": 1, "dense": 0.5}}}},
   "minilm-l6": {"strategy": "late_interaction",
     "latency": {"base_ms": 4, "ms_per_token": 0.02, "spread": 2},
     "gains": {"": {"points": [[10, 0.05, 0.03], [50, 0.1, 0.08]]}},
     "weights": {"": {"rerank": 1, "signals": {"rank": 0.1}}, "bm25": {"rerank": 1, "signals": {"bm25": 0.5}}}}}}
""")


def test_reads_every_field() -> None:
    """The documented format, key by key."""
    profile = parse(VALID, "abc")
    assert (profile.corpus, profile.revision, profile.rerank_ks) == ("default", "abc", (10, 50))
    assert (profile.min_gain_per_second, profile.known_signals) == (0.1, {"bm25", "dense"})
    arm = profile.arms["minilm-l6"]
    assert arm.strategy is Strategy.LATE_INTERACTION
    assert arm.latency == LatencyPrior(4.0, 0.02, 2.0)
    assert arm.gains == {"": GainCurve((GainPoint(10, 0.05, 0.03), GainPoint(50, 0.1, 0.08)))}
    assert arm.weights["bm25"] == FusionWeights(1.0, {"bm25": 0.5})
    assert profile.arms["signals"].latency == LatencyPrior(0.05, 0.0, 1.5)


def test_signal_set_joins_the_known_signals_in_order() -> None:
    """Sorted names of what came along and is known; empty where nothing is."""
    profile = parse(VALID, "abc")
    assert signal_set(profile, make_traits(signals=("bm25", "dense", "recency"))) == "bm25+dense"
    assert signal_set(profile, make_traits(signals=("recency",))) == ""


CE = ("arms", "minilm-l6")
CE_PATH = r'\$\.arms\["minilm-l6"\]'


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("format",), "millirank.profile/1", r"^\$\.format: .*this version reads that format only"),
        (("rerank_kz",), [10], r"^\$\.rerank_kz: unknown key \(did you mean 'rerank_ks'\?\)"),
        (("rerank_ks",), [50, 10], r"^\$\.rerank_ks: must ascend .*write \[10, 50\]"),
        (("rerank_ks",), [10, True], r"^\$\.rerank_ks\[1\]: expected a whole number, got True"),
        (("min_gain_per_second",), float("nan"), r"^\$\.min_gain_per_second: expected a finite number"),
        (("min_gain_per_second",), 10**400, r"^\$\.min_gain_per_second: is too large"),
        (("known_signals",), ["rank"], r"^\$\.known_signals\[0\]: 'rank' cannot be a signal's name"),
        (("corpus",), " ", r"^\$\.corpus: expected a non-empty string"),
        (("arms",), [], r"^\$\.arms: expected an object, got list"),
        ((*CE, "strategy"), "late_interation", CE_PATH + r"\.strategy: .*did you mean 'late_interaction'"),
        ((*CE, "strategy"), "signals", CE_PATH + r"\.strategy: arm 'minilm-l6' needs one of cross_encoder"),
        ((*CE, "latency", "spread"), 0.9, CE_PATH + r"\.latency\.spread: must be at least 1, got 0\.9"),
        (
            (*CE, "gains", "", "points"),
            [[50, 0.1, 0], [10, 0.1, 0]],
            r"\.points\[1\]\[0\]: k must ascend, got 10 after",
        ),
        ((*CE, "gains", "", "points"), [[10, 0.1]], r"\.points\[0\]: expected \[k, gain, lower"),
        ((*CE, "gains", "", "points"), [[10, 0.1, 0.2]], r"\.points\[0\]\[2\]: 0\.2 is above the gain 0\.1"),
        ((*CE, "weights", "dense+bm25"), {}, r"write the signal set as 'bm25\+dense'"),
        ((*CE, "weights", "bm52"), {}, r"'bm52' is not in \$\.known_signals \(did you mean 'bm25'\?\)"),
        ((*CE, "weights", "", "signals"), {"bm25": 1}, r"\.signals\.bm25: unknown key; allowed here: rank"),
        (("arms", "signals", "weights", "bm25+dense", "rerank"), 1, r"\.rerank: unknown key"),
    ],
)
def test_refuses_with_path_and_fix(where: tuple[str, ...], value: object, message: str) -> None:
    """One change to a valid profile: the message starts with the path of that change and names the fix."""
    data = copy.deepcopy(VALID)
    target: Any = data
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    with pytest.raises(ProfileError, match=message):
        parse(data, "abc")


def test_gains_need_weights() -> None:
    """An arm that could be chosen but not fused is refused when it is read, not when it is needed."""
    data = copy.deepcopy(VALID)
    del data["arms"]["minilm-l6"]["weights"][""]
    with pytest.raises(ProfileError, match=r"\.weights: has no weights for signal set '', which has gains; add them"):
        parse(data, "abc")


@pytest.mark.parametrize("key", ["format", "corpus", "rerank_ks", "min_gain_per_second", "known_signals", "arms"])
def test_missing_keys_are_named(key: str) -> None:
    """Nothing but `about` and `spread` is optional."""
    data = {name: value for name, value in VALID.items() if name != key}
    with pytest.raises(ProfileError, match=rf"^\$\.{key}: is missing; add it$"):
        parse(data, "abc")
