"""Slopes by trait: found where they are planted, left out where there is nothing to find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from judged_cases import judged_lists, latency_samples

from router.arms import Strategy
from router.gain import trait_gain
from router.profile import FusionWeights, GainCurve, GainPoint, parse
from router.traits import Traits
from sidecar.calibrate.fit import fit_profile
from sidecar.calibrate.fit_arm import ArmFit
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.calibrate.trait_fit import FEWEST, TraitFit, fit_traits

QUERIES = 100
KS = (10, 25, 50)
LATE = {"late": Strategy.LATE_INTERACTION}
SAMPLES = latency_samples({"late": 0.1})


def asked(count: int, seed: int) -> list[JudgedList]:
    """Queries of 1 to 11 words, half of them questions, over ten candidates with a signal."""
    rng = np.random.default_rng(seed)
    return [
        JudgedList(
            query_id=str(number),
            query=" ".join(["word"] * int(rng.integers(1, 12))) + ("?" if number % 2 else ""),
            ids=tuple(map(str, range(10))),
            lengths=tuple(rng.integers(100, 1000, 10).tolist()),
            signals={"bm25": np.sort(rng.normal(size=10))[::-1]},
            raw={},
            grades={"0": 1},
        )
        for number in range(count)
    ]


def arm(name: str, gains: Floats) -> ArmFit:
    """An arm whose queries gain the same at every k."""
    curve = GainCurve((GainPoint(10, 0.05, 0.03),))
    return ArmFit(name, "bm25", KS, np.tile(gains[:, None], (1, 3)), FusionWeights(1.0, {}), curve, 10, False)


def noise(count: int, seed: int) -> tuple[Floats, Floats]:
    """Gains of two arms, 0.05 on average, which have half of their luck in common."""
    rng = np.random.default_rng([seed, 1])
    common = rng.normal(0.0, 0.15, count)
    return tuple(0.05 + common + rng.normal(0.0, 0.15, count) for _ in range(2))  # type: ignore[return-value]


def found(lists: Sequence[JudgedList], *gains: Floats, seed: int = 0) -> TraitFit:
    fits = [arm(f"arm-{number}", own) for number, own in enumerate(gains)]
    fit = fit_traits(lists, fits, np.random.default_rng(seed))
    assert fit is not None
    return fit


@pytest.mark.parametrize("queries", [40, 100, 300])
def test_noise_is_never_kept(queries: int) -> None:
    """Gains that have nothing to do with the queries give no slopes; the finding says so, with the best trait.

    The seeds are fixed: an error of two standard errors does happen, and a test must not fail by chance.
    """
    for seed in range(30):
        fit = found(asked(queries, seed), *noise(queries, seed))
        assert fit.slopes == {}, seed
        assert fit.words.startswith(f"No trait predicts gains with signals bm25 (best alone: {fit.best}, ")
        assert fit.words.endswith("of the variance out of sample; not kept).")


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_signal_is_found(seed: int) -> None:
    """One arm gains 0.25 with questions and loses 0.15 without: the slopes say that questions are better off by far,
    with that arm, and decisions with them gain."""
    plain, planted = noise(QUERIES, seed)
    questions = np.arange(QUERIES) % 2
    fit = found(asked(QUERIES, seed), plain, planted + np.where(questions, 0.2, -0.2))
    assert fit.best == "question"
    assert fit.decided[0] > 0.0
    question, keyword = (Traits(6, is_question, False, 10, 500.0, ("bm25",), 1.0) for is_question in (True, False))
    differences = {
        name: trait_gain(slopes, question) - trait_gain(slopes, keyword) for name, slopes in fit.slopes.items()
    }
    assert differences["arm-1"] > 0.1
    assert abs(differences["arm-0"]) < 0.1
    assert "Traits predict gains with signals bm25" in fit.words


def test_the_slope_by_hand() -> None:
    """Only ``question`` varies: z is +-1 over 100 queries, the penalty for one trait is 1 / 0.05 = 20, gains are
    0.05 +- 0.3. The slope is sum(z * gain) / (sum(z * z) + 20) = 30 / 120 = 0.25. Out of sample with 80 queries it is
    24 / 100 = 0.24, so that of an error of 0.3^2 0.06^2 is left: 96 % are explained. Nothing is reranked without a
    question, where it lost 0.25 for half of the queries: 0.125 better."""
    lists = [
        JudgedList(
            query_id=str(number),
            query="word?" if number % 2 else "word",
            ids=("a", "b"),
            lengths=(10, 10),
            signals={"bm25": np.array([1.0, 0.0])},
            raw={},
            grades={},
        )
        for number in range(QUERIES)
    ]
    fit = found(lists, 0.05 + np.where(np.arange(QUERIES) % 2, 0.3, -0.3))
    assert dict(fit.slopes["arm-0"]) == {"question": (0.5, 0.5, 0.25)}
    assert fit.explained == pytest.approx(0.96, abs=0.01)
    assert fit.decided[0] == pytest.approx(0.125)


def test_too_few_queries_or_traits_that_never_vary_are_not_asked() -> None:
    """Nothing can be learnt from either, and nothing is said."""
    few = asked(FEWEST - 1, 0)
    assert fit_traits(few, [arm("arm", np.zeros(len(few)))], np.random.default_rng(0)) is None
    equal = [asked(1, 0)[0]] * FEWEST
    assert fit_traits(equal, [arm("arm", np.ones(FEWEST))], np.random.default_rng(0)) is None


def test_the_profile_says_so_where_nothing_is_found() -> None:
    """No arm has traits, and what was looked at stands in ``about``."""
    lists = judged_lists(60, skill={"bm25": 1.0, "late": 2.0})
    data, fitted = fit_profile(lists, SAMPLES, corpus="c", strategies=LATE, ks=KS, signals=["bm25"])
    (only,) = fitted.traits
    assert only.slopes == {}
    assert data["about"]["traits"] == [only.words]
    assert not any(own.traits for own in parse(data, "r").arms.values())


def test_what_was_found_gets_into_the_profile() -> None:
    """A model that knows the answers to questions and is wrong about keywords: its expected gain, as the router reads
    it from the profile's file, is higher for a question."""
    knows = judged_lists(60, skill={"bm25": 1.0, "late": 3.0})
    wrong = [
        replace(each, query_id=f"k{each.query_id}", query=f"number {each.query_id}")
        for each in judged_lists(60, skill={"bm25": 1.0, "late": -2.0}, seed=1)
    ]
    data, _ = fit_profile([*knows, *wrong], SAMPLES, corpus="c", strategies=LATE, ks=KS, signals=["bm25"])
    slopes = parse(json.loads(json.dumps(data)), "r").arms["late"].traits["bm25"]
    question, keyword = (Traits(words, words == 4, True, 60, 400.0, ("bm25",), 0.5) for words in (4, 2))
    assert trait_gain(slopes, question) > 0.05
    assert trait_gain(slopes, keyword) < -0.05
