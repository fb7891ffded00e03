"""Fitting a whole profile on made-up lists in which it is known who is worth what."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from judged_cases import judged_lists, latency_samples

from router.arms import Strategy
from router.profile import FusionWeights, GainCurve, GainPoint, parse
from sidecar.calibrate.fit import (
    FRUGAL_SHARE,
    MOST_GAIN_PER_SECOND,
    Fitted,
    fit_profile,
    frugal_rate,
    pooled_collection,
    signal_sets,
)
from sidecar.calibrate.fit_arm import ArmFit, recommended_k
from sidecar.calibrate.pooled import Pooled, PooledCollection, PooledGain, read, write
from sidecar.calibrate.records import JudgedList, LatencySample

STRATEGIES = {"late": Strategy.LATE_INTERACTION, "cross": Strategy.CROSS_ENCODER}
SKILL = {"bm25": 1.0, "dense": 1.5, "late": 2.5, "cross": 0.0}
KS = (10, 25, 50)
SAMPLES = latency_samples({"late": 0.1, "cross": 1.0})


def fitted(lists: list[JudgedList], **more: object) -> Fitted:
    return fit_profile(lists, SAMPLES, corpus="made-up", strategies=STRATEGIES, ks=KS, **more)[1]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> Fitted:
    return fitted(judged_lists(60, skill=SKILL))


def test_the_profile_is_read_by_the_router_and_survives_json() -> None:
    """What is written is a valid profile: every arm with weights and gains for every set of signals."""
    profile, _ = fit_profile(
        judged_lists(30, skill=SKILL), SAMPLES, corpus="made-up", strategies=STRATEGIES, ks=KS, min_gain_per_second=0.2
    )
    read_back = parse(json.loads(json.dumps(profile)), revision="abc")
    assert (read_back.corpus, read_back.rerank_ks, read_back.min_gain_per_second) == ("made-up", KS, 0.2)
    assert set(read_back.arms) == {"signals", "late", "cross"}
    assert set(read_back.arms["late"].gains) == {"", "bm25", "dense", "bm25+dense"}
    assert read_back.arms["late"].latency.base_ms > 0


def test_the_same_lists_give_the_same_profile() -> None:
    """No hidden randomness, and no arm depends on which others are fitted."""
    lists = judged_lists(30, skill=SKILL)
    whole = fit_profile(lists, SAMPLES, corpus="x", strategies=STRATEGIES, ks=KS)[0]
    assert whole == fit_profile(lists, SAMPLES, corpus="x", strategies=STRATEGIES, ks=KS)[0]
    alone = fit_profile(lists, SAMPLES, corpus="x", strategies={"late": Strategy.LATE_INTERACTION}, ks=KS)[0]
    assert alone["arms"]["late"] == whole["arms"]["late"]


def test_a_good_model_is_on_and_gets_most_of_the_weight(found: Fitted) -> None:
    """It scores relevant documents 2.5 deviations higher; bm25 only 1."""
    late = found.find("late", "bm25")
    assert late is not None
    assert late.on
    assert late.weights.rerank > 0.5
    assert late.curve.points[-1].gain > 0.2


def test_a_model_that_knows_nothing_gains_nothing(found: Fitted) -> None:
    """Its best weight is next to none, and what is expected of it is next to nothing."""
    cross = found.find("cross", "bm25")
    assert cross is not None
    assert cross.weights.rerank <= 0.25
    assert abs(cross.curve.points[-1].gain) < 0.03


def test_signals_alone_have_an_arm_where_there_is_something_to_fuse(found: Fitted) -> None:
    """bm25 made the order, so it cannot improve it; dense knows more."""
    both = found.find("signals", "bm25+dense")
    assert both is not None
    assert both.on
    assert both.weights.signals["dense"] >= both.weights.signals["bm25"]
    assert found.find("signals", "") is None


def test_the_curve_is_the_mean_of_the_held_out_gains(found: Fitted) -> None:
    """Without other collections nothing is shrunk; one standard error below it is the lower end."""
    late = found.find("late", "bm25+dense")
    assert late is not None
    assert not late.pooled
    for place, (k, gain, lower) in enumerate(late.curve.points):
        column = late.gains[:, place]
        assert k == late.ks[place]
        assert gain == pytest.approx(column.mean(), abs=1e-5)
        assert lower == pytest.approx(column.mean() - column.std(ddof=1) / np.sqrt(len(column)), abs=2e-5)


def test_gains_are_shrunk_towards_other_collections() -> None:
    """Three collections agree on 0.02 where 12 queries say much more: the belief lies between, and is surer."""
    lists = judged_lists(12, skill=SKILL)
    alone = fitted(lists).find("late", "bm25")
    pooled = Pooled(
        tuple(
            PooledCollection(name, name, 40, tuple(PooledGain("bm25+dense", "late", "bm25", k, mean, 1e-6) for k in KS))
            for name, mean in (("a", 0.01), ("b", 0.02), ("c", 0.03))
        )
    )
    shrunk = fitted(lists, pooled=pooled).find("late", "bm25")
    assert alone is not None
    assert shrunk is not None
    assert shrunk.pooled
    for before, after in zip(alone.curve.points, shrunk.curve.points, strict=True):
        assert 0.02 < after.gain < before.gain
        assert after.gain - after.lower < before.gain - before.lower


def test_what_was_not_scored_is_not_claimed() -> None:
    """Only the first 20 candidates have raw scores: nothing is said of k = 25 or 50."""
    lists = [
        replace(one, raw={"late": np.where(np.arange(60) < 20, one.raw["late"], np.nan)})
        for one in judged_lists(20, skill=SKILL)
    ]
    profile, _ = fit_profile(lists, SAMPLES, corpus="x", strategies={"late": Strategy.LATE_INTERACTION}, ks=KS)
    assert [point[0] for point in profile["arms"]["late"]["gains"]["bm25"]["points"]] == [10]


def test_what_is_missing_is_named() -> None:
    """A reranker without scores or samples, or too few queries, is refused instead of guessed."""
    lists = judged_lists(4, skill=SKILL)
    with pytest.raises(ValueError, match="1 judged lists"):
        fit_profile(lists[:1], SAMPLES, corpus="x", strategies=STRATEGIES)
    with pytest.raises(ValueError, match="'other' has no raw scores in 4 of 4"):
        fit_profile(lists, SAMPLES, corpus="x", strategies={"other": Strategy.LLM})
    with pytest.raises(ValueError, match="'late' has no latency samples"):
        fit_profile(lists, [], corpus="x", strategies={"late": Strategy.LATE_INTERACTION})


def test_signal_sets() -> None:
    """Every combination of up to three; of more, none, each one and all."""
    assert signal_sets(["bm25", "dense"]) == ["", "bm25", "dense", "bm25+dense"]
    assert signal_sets(["a", "b", "c", "d"]) == ["", "a", "b", "c", "d", "a+b+c+d"]


def test_the_recommended_k_is_the_smallest_within_one_paired_standard_error() -> None:
    """50 gains .04 in the mean. 25 loses .01 of it, each query .00 or .02: standard error .02 / sqrt(12) = .0058, so
    that is too much; 10 loses as much on average, but .1 either way: standard error .058."""
    steady, swinging = np.array([0.04, 0.02] * 2), np.array([0.13, -0.07] * 2)
    best = np.full(4, 0.04)
    assert recommended_k(np.stack([steady, best], axis=1), (25, 50)) == 50
    assert recommended_k(np.stack([swinging, best], axis=1), (10, 50)) == 10


def curve_of(points: tuple[GainPoint, ...]) -> ArmFit:
    return ArmFit("m", "bm25", (10, 25), np.zeros((2, 2)), FusionWeights(1.0, {}), GainCurve(points), 10, False)


@pytest.mark.parametrize(
    ("points", "on"),
    [
        ((GainPoint(10, 0.0, -0.005), GainPoint(25, 0.02, 0.0)), True),
        ((GainPoint(10, 0.01, -0.02), GainPoint(25, 0.05, 0.04)), False),  # cut short at 10 it may hurt
        ((GainPoint(10, 0.01, -0.01), GainPoint(25, 0.05, -0.04)), True),  # at 10 it is safe enough
        ((GainPoint(10, -0.01, -0.01), GainPoint(25, 0.0, -0.01)), False),
    ],
)
def test_an_arm_is_on_where_it_gains_and_is_safe_up_to_there(points: tuple[GainPoint, ...], on: bool) -> None:
    """The rule that the router decides by, at any k."""
    assert curve_of(points).on is on


def test_the_frugal_rate() -> None:
    """0.02 for 20 ms is 1 per second, 0.03 for 60 ms is 0.5: a tenth of the better; cold requests do not count."""
    fit = curve_of((GainPoint(10, 0.02, 0.01), GainPoint(25, 0.03, 0.01)))
    samples = [
        LatencySample("m", k, warm, ms + 2, ms, 0, k, 0)
        for k, warm, ms in ((10, True, 20.0), (10, False, 1.0), (25, True, 60.0))
    ]
    assert frugal_rate([fit], samples, "bm25") == pytest.approx(FRUGAL_SHARE * 1.0)
    fast = [replace(sample, stage_ms=sample.stage_ms / 100) for sample in samples]
    assert frugal_rate([fit], fast, "bm25") == MOST_GAIN_PER_SECOND
    assert frugal_rate([fit], samples, "dense") == 0.0


def test_pooled_gains_survive_their_file(tmp_path: object, found: Fitted) -> None:
    """Written and read again they are the same, arm for arm."""
    late = found.find("late", "bm25")
    assert late is not None
    collection = pooled_collection("made-up", "digest", [("bm25+dense", late)])
    assert [gain.k for gain in collection.gains] == list(KS)
    assert collection.gains[0].mean == pytest.approx(late.gains[:, 0].mean(), abs=1e-5)
    path = tmp_path / "pooled.json"  # type: ignore[operator]
    write(path, [collection], {"made_by": "a test"})
    assert read(path) == Pooled((collection,))
