"""Orders derived from scores: as the sidecar answers, and by a profile that has not seen the query."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_cases import judged_lists, profile

from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.report.orders import cross_fitted, measure, reorder, with_profile

PROFILE = profile({"signals": [(10, 0.1)], "late": [(10, 0.1)]})


def judged(raw: list[float], bm25: list[float]) -> JudgedList:
    """Candidates a, b, c, ... of which the last is relevant."""
    ids = tuple("abcdefgh"[: len(raw)])
    return JudgedList(
        query_id="q",
        query="words",
        ids=ids,
        lengths=(100,) * len(ids),
        signals={"bm25": np.array(bm25)},
        raw={"late": np.array(raw)},
        grades={ids[-1]: 1},
    )


def test_the_first_k_are_fused_and_the_rest_stay_behind_them() -> None:
    """z of late over the first three is (-1.22, 1.22, 0), of bm25 (1.22, 0, -1.22): the sums 0, 1.22, -1.22 give b, a,
    c. Where bm25 says nothing late alone decides; d stays last however high its score."""
    query = with_profile(judged([1.0, 3.0, 2.0, 99.0], [3.0, 2.0, 1.0, 0.0]), PROFILE)
    assert reorder(query, "late", 3) == ["b", "a", "c", "d"]
    query = with_profile(judged([1.0, 2.0, 3.0, 99.0], [3.0, 3.0, 3.0, 0.0]), PROFILE)
    assert reorder(query, "late", 3) == ["c", "b", "a", "d"]


def test_none_keeps_and_signals_reads_no_model_score() -> None:
    """`none` is first-stage order; `signals` orders by bm25, whatever the model says."""
    query = with_profile(judged([9.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]), PROFILE)
    assert reorder(query, "none", 0) == ["a", "b", "c", "d"]
    assert reorder(query, "signals", 4) == ["d", "c", "b", "a"]


def test_candidates_without_a_score_stand_behind_those_with_one() -> None:
    """As in an answer of a reranker that covers only some of the candidates."""
    query = with_profile(judged([math.nan, 1.0, 2.0, math.nan], [1.0, 1.0, 1.0, 1.0]), PROFILE)
    assert reorder(query, "late", 4) == ["c", "b", "a", "d"]


def test_a_promotion_cap_holds_in_the_report_too() -> None:
    """The last of four would rise three places; with a cap of one it rises one."""
    query = with_profile(judged([1.0, 1.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0]), PROFILE)
    assert reorder(query, "late", 4) == ["d", "a", "b", "c"]
    assert reorder(query, "late", 4, promotion_cap=1) == ["a", "b", "d", "c"]


def test_a_reranker_without_scores_is_refused() -> None:
    """A name that the lists have no scores of is a KeyError, not first-stage order."""
    with pytest.raises(KeyError, match="other"):
        reorder(with_profile(judged([1.0, 2.0], [1.0, 2.0]), PROFILE), "other", 2)


@given(
    raw=st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=8),
    k=st.integers(1, 10),
    cap=st.integers(0, 3),
)
def test_an_order_is_a_permutation(raw: list[float], k: int, cap: int) -> None:
    """Whatever the scores, nothing is lost and nothing is there twice."""
    query = with_profile(judged(raw, [float(-i) for i in range(len(raw))]), PROFILE)
    assert sorted(reorder(query, "late", k, cap)) == sorted(query.judged.ids)


def test_no_query_is_ordered_by_a_profile_that_was_fitted_with_it() -> None:
    """Two-fold: the profile of a query comes from a fit that did not get it, and each half fits once."""
    lists = judged_lists(9, skill={"bm25": 1.0, "late": 1.0})
    fits: list[frozenset[str]] = []

    def fit(half: list[JudgedList]) -> object:
        fits.append(frozenset(one.query_id for one in half))
        return profile({"late": [(10, 0.1 * len(fits))]})

    queries = cross_fitted(lists, fit)  # type: ignore[arg-type]
    assert [query.judged.query_id for query in queries] == [one.query_id for one in lists]
    assert sorted(len(half) for half in fits) == [4, 5]
    for query in queries:
        which = round(query.profile.arms["late"].gains["bm25"].points[0][1] * 10) - 1
        assert query.judged.query_id not in fits[which]


def test_one_query_can_not_be_split() -> None:
    """Nothing can be tested on other queries where there is only one."""
    with pytest.raises(ValueError, match="at least two"):
        cross_fitted(judged_lists(1, skill={"bm25": 1.0}), lambda half: PROFILE)


def test_quality_is_measured_query_by_query() -> None:
    """One relevant document at rank 1, 3 and 11: nDCG 1, 1 / log2(4) and 0, reciprocal rank 1, 1/3 and 0."""
    queries, orders = [], []
    for number, rank in enumerate((0, 2, 10)):
        ids = [f"d{i}" for i in range(12)]
        one = JudgedList(f"q{number}", "words", tuple(ids), (1,) * 12, {}, {}, {ids[rank]: 1})
        queries.append(with_profile(one, PROFILE))
        orders.append(ids)
    quality = measure(queries, orders)
    assert quality.ndcg10.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert quality.rr10.tolist() == pytest.approx([1.0, 1 / 3, 0.0])
