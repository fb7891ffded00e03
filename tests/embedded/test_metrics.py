"""Exact numbers for `sidecar.calibrate.metrics`."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("ir_measures", reason="the extra `calibrate` is not installed")

from sidecar.calibrate.metrics import macro_bootstrap, mrr_at_10, ndcg_at_10, paired_bootstrap


def test_ndcg_of_a_graded_list() -> None:
    """Linear gains, log2 discount, divided by the ideal order's value."""
    values = ndcg_at_10({"q": {"a": 2, "b": 1, "c": 0}}, {"q": ["c", "b", "a"]})
    got = 1 / math.log2(3) + 2 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert values == {"q": pytest.approx(got / ideal)}


def test_ndcg_of_the_ideal_order_is_one() -> None:
    """Unjudged documents behind the relevant ones cost nothing."""
    assert ndcg_at_10({"q": {"a": 1, "b": 1}}, {"q": ["b", "a", "x"]}) == {"q": pytest.approx(1.0)}


def test_ranks_beyond_ten_do_not_count() -> None:
    """The 11th document adds nothing to either measure."""
    ranking = [f"x{i}" for i in range(10)] + ["a"]
    assert ndcg_at_10({"q": {"a": 1}}, {"q": ranking}) == {"q": 0.0}
    assert mrr_at_10({"q": {"a": 1}}, {"q": ranking}) == {"q": 0.0}


@pytest.mark.parametrize(("rank", "expected"), [(1, 1.0), (3, 1 / 3), (10, 0.1)])
def test_reciprocal_rank_of_the_first_relevant_document(rank: int, expected: float) -> None:
    """1/rank of the first document of grade 1 or more; a judged grade 0 is not relevant."""
    ranking = [f"x{i}" for i in range(rank - 1)] + ["a", "b"]
    qrels = {"q": {"a": 1, "b": 1, "x0": 0}}
    assert mrr_at_10(qrels, {"q": ranking}) == {"q": pytest.approx(expected)}


def test_a_query_without_a_ranking_counts_zero() -> None:
    """Leaving hard queries out of a run must not raise its mean; the order of qrels is kept."""
    qrels = {"q2": {"a": 1}, "q1": {"a": 1}}
    assert list(ndcg_at_10(qrels, {"q1": ["a"]}).items()) == [("q2", 0.0), ("q1", 1.0)]


def test_a_document_twice_is_refused() -> None:
    """A duplicate would be dropped silently by the measure: the message names the query."""
    with pytest.raises(ValueError, match=r"run\['q'\] names a document twice"):
        ndcg_at_10({"q": {"a": 1}}, {"q": ["a", "b", "a"]})


def test_bootstrap_of_a_constant_difference_is_exact() -> None:
    """Without variance between queries the interval is a point, and p is the smallest that the samples allow."""
    result = paired_bootstrap([0.75, 0.5, 1.0], [0.5, 0.25, 0.75], samples=999)
    assert result[:3] == (0.25, 0.25, 0.25)
    assert result.p == pytest.approx(2 / 1000)


def test_bootstrap_of_equal_systems_is_not_significant() -> None:
    """No difference: an interval of zero width at zero and p = 1."""
    assert paired_bootstrap([0.1, 0.9], [0.1, 0.9]) == (0.0, 0.0, 0.0, 1.0)


def test_bootstrap_is_seeded_and_antisymmetric() -> None:
    """Same seed, same interval; exchanging the systems mirrors it."""
    rng = np.random.default_rng(3)
    a, b = rng.random(40), rng.random(40)
    first, again, mirrored = paired_bootstrap(a, b), paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert first == again
    assert mirrored == pytest.approx((-first.mean, -first.high, -first.low, first.p))
    assert paired_bootstrap(a, b, seed=1) != first


def test_bootstrap_interval_has_the_width_of_the_standard_error() -> None:
    """For many queries the percentile interval agrees with mean +- 1.96 standard errors."""
    difference = np.random.default_rng(0).normal(0.1, 1.0, 2000)
    result = paired_bootstrap(difference, np.zeros(2000))
    half = 1.96 * difference.std() / math.sqrt(2000)
    assert result.low == pytest.approx(difference.mean() - half, abs=0.004)
    assert result.high == pytest.approx(difference.mean() + half, abs=0.004)


def test_macro_weighs_collections_not_queries() -> None:
    """A collection of one query counts as much as one of three."""
    result = macro_bootstrap([([1.0], [0.0]), ([0.0, 0.0, 0.0], [0.5, 0.5, 0.5])])
    assert result[:3] == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_lists_that_do_not_pair_up_are_refused(a: list[float], b: list[float]) -> None:
    """Empty or unequal lists cannot be paired."""
    with pytest.raises(ValueError, match="equally long, non-empty"):
        paired_bootstrap(a, b)
