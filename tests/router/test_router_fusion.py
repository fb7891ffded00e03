"""From scores to an order. Invariants 3 and 4 of the design's section 6."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fusion import all_finite, fuse, order, z_scores
from router.profile import FusionWeights

FINITE = st.floats(allow_nan=False, allow_infinity=False)
ROOT_1_5 = math.sqrt(1.5)  # z of (3, 2, 1) is (1, 0, -1) * sqrt(3/2)


def test_z_scores_by_hand() -> None:
    """(3, 2, 1) has mean 2 and population variance 2/3."""
    assert z_scores([3.0, 2.0, 1.0]) == pytest.approx([ROOT_1_5, 0.0, -ROOT_1_5])


def test_equal_values_have_no_z() -> None:
    """Three times 0.1 gives exact zeros, although the rounded variance of these values is not zero."""
    assert z_scores([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]


@given(st.lists(FINITE, max_size=50))
def test_z_scores_have_mean_zero(values: list[float]) -> None:
    """For any finite input, up to the end of the float range: finite, mean 0."""
    scores = z_scores(values)
    assert all(map(math.isfinite, scores))
    assert abs(math.fsum(scores)) <= 1e-6 * max(1, len(scores))


def test_fuse_by_hand() -> None:
    """2 * z(rerank) + 0.5 * z(bm25) for rerank (1, 2, 3) and bm25 (3, 2, 1) leaves 1.5 * z(rerank)."""
    signals = [{"bm25": 3.0}, {"bm25": 2.0}, {"bm25": 1.0}]
    fused = fuse([1.0, 2.0, 3.0], signals, [0, 1, 2], FusionWeights(2.0, {"bm25": 0.5}))
    assert fused == pytest.approx([-1.5 * ROOT_1_5, 0.0, 1.5 * ROOT_1_5])


def test_a_missing_signal_counts_as_the_reciprocal_rank() -> None:
    """Carriers are standardised among themselves (+1, -1); the gap gets its z of (1, 1/2, 1/3)."""
    reciprocal = z_scores([1.0, 1 / 2, 1 / 3])
    for missing in ({}, {"bm25": math.nan}):
        fused = fuse(None, [{"bm25": 9.0}, {"bm25": 5.0}, missing], [0, 1, 2], FusionWeights(0.0, {"bm25": 1.0}))
        assert fused == pytest.approx([1.0, -1.0, reciprocal[2]])


def test_a_signal_that_nobody_carries_is_left_out() -> None:
    """It must not turn into a second vote for the first-stage rank."""
    weights = FusionWeights(1.0, {"dense": 5.0})
    assert fuse([1.0, 2.0, 3.0], [{}, {}, {}], [0, 1, 2], weights) == z_scores([1.0, 2.0, 3.0])


def test_rank_is_a_signal_that_everybody_has() -> None:
    """`rank` weighs 1/(rank+1), with the ranks given, not the positions in the list."""
    fused = fuse(None, [{}, {}], [3, 1], FusionWeights(0.0, {"rank": 2.0}))
    assert fused == pytest.approx([-2.0, 2.0])


def test_fuse_refuses_lists_of_different_length() -> None:
    """Surplus or missing scores never shift silently to another candidate."""
    with pytest.raises(ValueError, match="1 rerank scores, 2 signals, 2 ranks"):
        fuse([1.0], [{}, {}], [0, 1], FusionWeights(1.0, {}))


@given(st.data(), st.integers(0, 40))
def test_order_is_a_permutation_with_the_scored_first(data: st.DataObject, total: int) -> None:
    """Invariant 3: every position once; the scored ones fill the front; the others follow in first-stage order."""
    scored = data.draw(st.permutations(range(total)))[: data.draw(st.integers(0, total))]
    fused = data.draw(st.lists(FINITE, min_size=len(scored), max_size=len(scored)))
    result = order(fused, scored, total)
    assert sorted(result) == list(range(total))
    assert set(result[: len(scored)]) == set(scored)
    assert result[len(scored) :] == sorted(set(range(total)) - set(scored))
    by_position = dict(zip(scored, fused, strict=True))
    front = [by_position[position] for position in result[: len(scored)]]
    assert front == sorted(front, reverse=True)


@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 2.0]), max_size=30))
def test_ties_keep_first_stage_order(fused: list[float]) -> None:
    """Invariant 4: among equal scores (0.0 and -0.0 are equal) positions ascend."""
    result = order(fused, range(len(fused)), len(fused))
    assert all(left < right for left, right in pairwise(result) if fused[left] == fused[right])


@pytest.mark.parametrize(
    ("fused", "scored"),
    [([math.nan], [0]), ([math.inf], [0]), ([1.0], [0, 1]), ([1.0, 2.0], [0, 0]), ([1.0], [3]), ([1.0], [-1])],
)
def test_order_refuses_what_cannot_be_ordered(fused: list[float], scored: list[int]) -> None:
    """Invariant 4: NaN, infinite, missing or surplus scores and impossible positions are errors, not an order."""
    with pytest.raises(ValueError, match="scored"):
        order(fused, scored, 3)


def test_all_finite() -> None:
    """Invariant 4: exactly as many scores as expected, each a number."""
    assert all_finite([1.0, -2.0], 2)
    assert all_finite([], 0)
    assert not all_finite([1.0], 2)
    assert not all_finite([1.0, 2.0, 3.0], 2)
    assert not all_finite([1.0, math.nan], 2)
    assert not all_finite([1.0, -math.inf], 2)
