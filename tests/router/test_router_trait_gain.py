"""Gains that depend on the query's traits: the arithmetic, what the router makes of it, and what a profile may say."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_cases import arm_profile, decide, make_profile, view

from router.arms import Strategy
from router.gain import FARTHEST, shifted, trait_gain
from router.policy import Verdict
from router.profile import ArmProfile, GainCurve, GainPoint, ProfileError, TraitSlope, parse
from router.traits import FIGURES, Traits
from tests.helpers import arm_data, profile_data

CURVE = GainCurve((GainPoint(10, 0.05, 0.03), GainPoint(100, 0.09, 0.06)))
QUESTIONS = {"question": TraitSlope(0.5, 0.5, 0.04)}


def traits(*, question: bool = False, margin: float = 0.0, words: int = 3) -> Traits:
    return Traits(words, question, False, 50, 800.0, ("bm25",), margin)


def with_traits(arm: ArmProfile, slopes: dict[str, TraitSlope]) -> ArmProfile:
    return ArmProfile(arm.strategy, arm.gains, arm.weights, arm.latency, {"bm25": slopes})


def test_each_trait_adds_its_slope_for_each_deviation() -> None:
    """A question is one deviation above 0.5, a margin of 1.0 half a deviation below 2.0: 0.04 - 0.5 * 0.02 = 0.03."""
    slopes = {**QUESTIONS, "margin": TraitSlope(2.0, 2.0, 0.02)}
    assert trait_gain(slopes, traits(question=True, margin=1.0)) == pytest.approx(0.03)
    assert trait_gain(slopes, traits(question=False, margin=2.0)) == pytest.approx(-0.04)


def test_words_and_characters_count_as_logarithms() -> None:
    """Six more words than none are log(7), whatever they would be beyond."""
    assert FIGURES["query_words"](traits(words=6)) == math.log(7)
    assert FIGURES["mean_characters"](traits()) == math.log(801)


@given(st.floats(-1e9, 1e9))
def test_no_trait_counts_beyond_what_was_seen(margin: float) -> None:
    """However far out a query lies, a trait adds two slopes at most."""
    assert abs(trait_gain({"margin": TraitSlope(0.0, 1.0, 0.02)}, traits(margin=margin))) <= FARTHEST * 0.02


def test_a_shift_fades_where_the_curve_does() -> None:
    """In full from the first calibrated k on; at sqrt(10), half way to 1 in log(k), half of it; at 1 nothing."""
    ks = (1, 10, 100)
    moved = shifted([(0.0, 0.0), (0.05, 0.03), (0.09, 0.03)], ks, CURVE, 0.02)
    assert [gain for gain, _ in moved] == pytest.approx([0.0, 0.07, 0.11])
    assert [lower for _, lower in moved] == pytest.approx([0.0, 0.05, 0.05])
    (half,) = shifted([(0.02, 0.01)], (4,), CURVE, 0.02)
    assert half[0] == pytest.approx(0.02 + 0.02 * math.log(4) / math.log(10))


def test_queries_of_one_corpus_get_different_arms() -> None:
    """The cross-encoder gains 0.05 for a mean query: 0.09 for questions, 0.01 for others, for which the flat 0.04 of
    late interaction is better. Both gains are what the arms say, too."""
    profile = make_profile(
        {
            "ce": with_traits(arm_profile(Strategy.CROSS_ENCODER, points=((10, 0.05),)), QUESTIONS),
            "li": arm_profile(Strategy.LATE_INTERACTION, points=((10, 0.04),)),
        },
        min_gain_per_second=0.0,
    )
    views = [view("ce"), view("li", Strategy.LATE_INTERACTION)]
    asked = decide(views, profile, traits=traits(question=True))
    other = decide(views, profile, traits=traits(question=False))
    assert (asked.reranker, asked.expected_gain) == ("ce", pytest.approx(0.09))
    assert (other.reranker, other.expected_gain) == ("li", pytest.approx(0.04))


def test_the_reason_says_what_the_traits_do() -> None:
    """Who reads why an arm was taken or left sees how much of its gain is this query's own."""
    arms = {"ce": with_traits(arm_profile(Strategy.CROSS_ENCODER, points=((10, 0.05),)), QUESTIONS)}
    decision = decide([view("ce")], make_profile(arms), traits=traits(question=True))
    said = [arm.detail for arm in decision.considered if arm.reranker == "ce"]
    assert said
    assert all(words.endswith("; +0.040 of its gain by the query's traits") for words in said)


def test_an_arm_that_hurts_such_queries_is_left_out_for_them() -> None:
    """0.03 less than 0.02, its lower end: below what is tolerated."""
    slopes = {"question": TraitSlope(0.5, 0.5, -0.035)}
    arms = {"ce": with_traits(arm_profile(Strategy.CROSS_ENCODER, points=((10, 0.05),)), slopes)}
    assert decide([view("ce")], make_profile(arms), traits=traits(question=False)).reranker == "ce"
    left = decide([view("ce")], make_profile(arms), traits=traits(question=True))
    assert left.strategy is Strategy.NONE
    assert {arm.verdict for arm in left.considered if arm.reranker} == {Verdict.NO_GAIN}


def test_signals_depend_on_traits_as_models_do() -> None:
    """SIGNALS gains 0.02 on average; for a question 0.06. Forced it says so, too."""
    arms = {"signals": with_traits(arm_profile(Strategy.SIGNALS, points=((10, 0.02),)), QUESTIONS)}
    free = decide([], make_profile(arms), traits=traits(question=True))
    assert (free.strategy, free.expected_gain) == (Strategy.SIGNALS, pytest.approx(0.06))
    forced = decide([], make_profile(arms), traits=traits(question=True), strategy=Strategy.SIGNALS)
    assert forced.expected_gain == pytest.approx(0.06)


def test_a_forced_reranker_expects_what_its_traits_say() -> None:
    """The expected gain of a forced arm is this query's, not the mean one's."""
    arms = {"ce": with_traits(arm_profile(Strategy.CROSS_ENCODER, points=((10, 0.05),)), QUESTIONS)}
    forced = decide([view("ce")], make_profile(arms), traits=traits(question=True), reranker="ce")
    assert forced.expected_gain == pytest.approx(0.09)


def data(entry: Any) -> dict[str, Any]:
    written = copy.deepcopy(profile_data())
    written["arms"]["scripted"] = {**arm_data(), "traits": entry}
    return written


def test_traits_are_read() -> None:
    """[mean, deviation, slope] by signal set and trait; a profile without any has none."""
    read = parse(data({"bm25": {"margin": [0.4, 1.1, -0.012]}}), "r")
    assert read.arms["scripted"].traits == {"bm25": {"margin": TraitSlope(0.4, 1.1, -0.012)}}
    assert parse(profile_data(), "r").arms["scripted"].traits == {}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([], r"\$\.arms\.scripted\.traits: expected an object, got list"),
        ({"dense": {}}, r"\$\.arms\.scripted\.traits\.dense: 'dense' is not in \$\.known_signals"),
        ({"bm25": {"margn": [0, 1, 0]}}, r"traits\.bm25\.margn: unknown key \(did you mean 'margin'\?\)"),
        ({"bm25": {"margin": [0, 1]}}, r"traits\.bm25\.margin: expected \[mean, deviation, nDCG@10 for one"),
        ({"bm25": {"margin": [0, 0, 0.1]}}, r"traits\.bm25\.margin\[1\]: must be above 0, got 0"),
        ({"bm25": {"margin": [0, 1, 2]}}, r"traits\.bm25\.margin\[2\]: must be between -1 and 1, got 2"),
        ({"bm25": {"margin": [math.nan, 1, 0]}}, r"traits\.bm25\.margin\[0\]: expected a finite number"),
    ],
)
def test_wrong_traits_are_refused_by_name(entry: Any, words: str) -> None:
    """The message has the path, what was found and the fix."""
    with pytest.raises(ProfileError, match=words):
        parse(data(entry), "r")


def test_traits_need_gains_to_depend_on_them() -> None:
    """Slopes for a set of signals without a curve would never be used."""
    written = data({"bm25": {"margin": [0, 1, 0.1]}})
    del written["arms"]["scripted"]["gains"]["bm25"]
    with pytest.raises(ProfileError, match=r"traits\.bm25: there are no gains for this signal set"):
        parse(written, "r")
