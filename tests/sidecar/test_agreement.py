"""Agreement of two orders, with figures worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.agreement import ndcg, rbo, scaled


def test_rbo_by_hand() -> None:
    """RBO_EXT of Webber et al. (2010), term by term.

    abc against cab at p = 0.9: overlaps 0, 1 (a) and 3, so 1 * 0.9^3 + 1/9 * (0 + 1/2 * 0.9^2 + 1 * 0.9^3) = 0.855.
    Two swapped items: 0.9^2 + 1/9 * 0.9^2 = 0.9. At p = 0.5, abcd against abdc: overlaps 1, 2, 2, 4, so
    0.0625 + 0.5 + 0.25 + 2/3 * 0.125 + 0.0625 = 0.958333... And 12345 against 23415 at p = 0.9: overlaps 0, 1, 2, 4, 5,
    so 0.9^5 + 1/9 * (1/2 * 0.9^2 + 2/3 * 0.9^3 + 0.9^4 + 0.9^5) = 0.828.
    """
    assert rbo("abc", "cab", 0.9) == pytest.approx(0.855, abs=1e-15)
    assert rbo("ab", "ba", 0.9) == pytest.approx(0.9, abs=1e-15)
    assert rbo("12345", "23415", 0.9) == pytest.approx(0.828, abs=1e-6)
    assert rbo("abcd", "abdc", 0.5) == pytest.approx(0.0625 + 0.5 + 0.25 + 0.125 * 2 / 3 + 0.0625, abs=1e-15)


def test_rbo_of_partly_shared_lists_by_hand() -> None:
    """Lists need not hold the same items: ab against bc at p = 0.5 share b at depth 2: 1/2 * 0.25 + 1/2 * 0.25."""
    assert rbo("ab", "bc", 0.5) == pytest.approx(0.25, abs=1e-15)
    assert rbo("ab", "cd", 0.9) == 0.0


@given(st.permutations(range(12)), st.permutations(range(12)), st.floats(0.5, 0.95))
def test_rbo_is_symmetric_bounded_and_one_only_for_equal_orders(one: list[int], other: list[int], p: float) -> None:
    """For permutations of the same items."""
    value = rbo(one, other, p)
    assert value == rbo(other, one, p)
    assert 0.0 < value < 1.0 + 1e-12
    assert (one == other) == (value > 1.0 - 1e-9)


def test_early_disagreement_weighs_more() -> None:
    """Swapping ranks 1 and 2 costs more than swapping 9 and 10."""
    order = list(range(10))
    assert rbo(order, [1, 0, *order[2:]]) < rbo(order, [*order[:8], 9, 8]) < 1.0


@pytest.mark.parametrize(
    ("one", "other", "p", "message"),
    [
        ("", "", 0.9, "not empty"),
        ("ab", "abc", 0.9, "got 2 and 3 items"),
        ("aa", "ab", 0.9, "rank 2 repeats"),
        ("a", "b", 1.0, "p must lie"),
    ],
)
def test_what_is_no_pair_of_rankings(one: str, other: str, p: float, message: str) -> None:
    """Each with what is wrong."""
    with pytest.raises(ValueError, match=message):
        rbo(one, other, p)


def test_ndcg_by_hand() -> None:
    """Gains 0, 1, 0.5 in this order: (1/log2(3) + 0.5/2) / (1 + 0.5/log2(3)). Beyond the depth nothing counts."""
    expected = (1 / math.log2(3) + 0.25) / (1 + 0.5 / math.log2(3))
    assert ndcg([0, 1, 2], [0.0, 1.0, 0.5]) == pytest.approx(expected, abs=1e-15)
    assert ndcg([1, 2, 0], [0.0, 1.0, 0.5]) == 1.0
    assert ndcg([0, 1, 2], [0.0, 1.0, 0.5], depth=1) == 0.0


def test_ndcg_without_an_opinion() -> None:
    """A reference that scores all alike says nothing about any order."""
    assert scaled([3.5, 3.5]) == [0.0, 0.0]
    assert ndcg([1, 0], scaled([3.5, 3.5])) is None


def test_gains_are_the_scores_between_the_lowest_and_the_highest() -> None:
    """Logits may be negative; gains may not."""
    assert scaled([-4.0, 0.0, 4.0]) == [0.0, 0.5, 1.0]
