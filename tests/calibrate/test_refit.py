"""What shadow evaluations change in a profile, and what they must not."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from router.profile import parse
from sidecar.calibrate.from_shadow import ShadowError, ShadowLists, stand_in
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.refit import FEWEST, refit

N = 12  # candidates of a list


def judged(number: int, **raw: Any) -> JudgedList:
    """The reference has one favourite, last in first-stage order, and grades all others 0; bm25 falls with the rank."""
    return JudgedList(
        query_id=str(number),
        query=stand_in(3, False, False),
        ids=tuple(str(place) for place in range(N)),
        lengths=(100,) * N,
        signals={"bm25": np.linspace(5.0, 1.0, N)},
        raw={"teacher": FAVOURITE_LAST, **raw},
        grades={str(place): 10 if place == N - 1 else 0 for place in range(N)},
    )


FAVOURITE_LAST = np.array([0.0] * (N - 1) + [9.0])
FAVOURITE_FIRST = FAVOURITE_LAST[::-1].copy()


def shadow(lists: list[JudgedList]) -> ShadowLists:
    return ShadowLists(tuple(lists), ("teacher", "t1"), 0)


def earlier(**gains: float) -> dict[str, Any]:
    """A profile in which every arm was measured at k = 12, with a lower end of half its gain."""
    arms: dict[str, Any] = {}
    for name, gain in {"teacher": 0.08, "like": 0.01, "unlike": 0.05, **gains}.items():
        arms[name] = {
            "strategy": "cross_encoder",
            "latency": {"base_ms": 3.0, "ms_per_token": 0.5, "spread": 1.4},
            "gains": {"bm25": {"points": [[N, gain, gain / 2]]}},
            "weights": {"bm25": {"rerank": 1.0, "signals": {"bm25": 1.0}}},
        }
    return {
        "format": "millirank.profile/2",
        "corpus": "legal",
        "rerank_ks": [N],
        "min_gain_per_second": 0.1,
        "known_signals": ["bm25"],
        "arms": arms,
    }


def test_arm_is_credited_with_its_share_of_the_reference_gain() -> None:
    """An arm with the reference's own opinion goes the whole way: the reference's 0.08, its lower end the reference's.
    One that leaves the favourite out of the first ten, as first-stage order does, gains nothing, whatever it was
    measured to gain before."""
    lists = [judged(number, like=FAVOURITE_LAST, unlike=FAVOURITE_FIRST) for number in range(FEWEST)]
    profile = earlier()
    found = refit(shadow(lists), profile)
    changes = {each.arm: each for each in found.changes}
    assert (changes["like"].before, changes["like"].after) == (0.01, 0.08)
    assert (changes["like"].share, changes["like"].queries) == (1.0, FEWEST)
    assert found.profile["arms"]["like"]["gains"]["bm25"]["points"] == [[N, 0.08, 0.04]]
    assert (changes["unlike"].before, changes["unlike"].after, changes["unlike"].share) == (0.05, 0.0, 0.0)
    assert found.profile["arms"]["unlike"]["gains"]["bm25"]["points"] == [[N, 0.0, 0.0]]
    assert parse(found.profile, "r").arms["like"].weights["bm25"].rerank > 0.0


def test_reference_latencies_and_the_earlier_profile_stay() -> None:
    """By its own labels the reference would be perfect: its entry is not touched, nor is any latency, nor the input."""
    lists = [judged(number, like=FAVOURITE_LAST) for number in range(FEWEST)]
    profile = earlier()
    before = copy.deepcopy(profile)
    found = refit(shadow(lists), profile)
    assert profile == before
    assert found.profile["arms"]["teacher"] == before["arms"]["teacher"]
    assert found.profile["arms"]["like"]["latency"] == before["arms"]["like"]["latency"]
    assert found.profile["arms"]["unlike"] == before["arms"]["unlike"]
    assert found.stayed == (f"unlike with signals 'bm25': 0 evaluations, {FEWEST} are needed",)
    assert "30 shadow evaluations by teacher t1" in found.profile["about"]["shadow"]
    assert json.dumps(refit(shadow(lists), profile).profile) == json.dumps(found.profile)


def test_half_the_way_is_half_the_gain() -> None:
    """An arm that finds the favourite of every other query, and changes nothing in the others."""
    flat = np.zeros(N)
    lists = [judged(number, like=FAVOURITE_LAST if number % 2 else flat) for number in range(4 * FEWEST)]
    found = refit(shadow(lists), earlier())
    (change,) = found.changes
    assert change.share == pytest.approx(0.5, abs=0.01)
    assert change.after == pytest.approx(0.04, abs=0.001)


def test_claimed_gain_of_a_reference_that_was_never_measured() -> None:
    """Without one nothing can be said about gains; the message names the signals and the reference."""
    lists = [judged(number, like=FAVOURITE_LAST) for number in range(FEWEST)]
    profile = earlier()
    del profile["arms"]["teacher"]
    with pytest.raises(ShadowError, match="no gain of 'teacher' with these to compare with"):
        refit(shadow(lists), profile)
    found = refit(shadow(lists), profile, reference_gain=0.2)
    assert found.profile["arms"]["like"]["gains"]["bm25"]["points"] == [[N, 0.2, 0.2]]


def test_too_few_evaluations() -> None:
    """One fewer than needed for every arm: nothing changes, and it says how many there are."""
    lists = [judged(number, like=FAVOURITE_LAST) for number in range(FEWEST - 1)]
    with pytest.raises(ShadowError, match=f"like with signals 'bm25': {FEWEST - 1} evaluations, {FEWEST} are needed"):
        refit(shadow(lists), earlier())
