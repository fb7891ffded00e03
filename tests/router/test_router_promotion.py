"""The promotion cap: exact examples, and properties against every permutation there is."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.promotion import cap_promotions

orders = st.integers(0, 40).flatmap(lambda count: st.permutations(range(count)))


def test_a_candidate_rises_as_far_as_the_cap() -> None:
    """The last of five, wished first, rises by 2; the others close up in their wished order."""
    assert cap_promotions([4, 0, 1, 2, 3], 2) == (0, 1, 4, 2, 3)


def test_several_that_rise_keep_their_wished_order() -> None:
    """With a cap of 1 a turned-around list is turned around pair by pair, as far as the pairs overlap."""
    assert cap_promotions([4, 3, 2, 1, 0], 1) == (1, 2, 3, 4, 0)


def test_no_cap() -> None:
    """0 means none."""
    assert cap_promotions([3, 2, 1, 0], 0) == (3, 2, 1, 0)


@given(order=orders, cap=st.integers(1, 45))
def test_nobody_rises_more_than_the_cap(order: list[int], cap: int) -> None:
    """A permutation in which place + cap >= first-stage rank, for everybody."""
    capped = cap_promotions(order, cap)
    assert sorted(capped) == sorted(order)
    assert all(rank - place <= cap for place, rank in enumerate(capped))


@given(order=orders, cap=st.integers(1, 45))
def test_an_order_within_the_cap_stays(order: list[int], cap: int) -> None:
    """Capping changes only what is out of bounds, so capping twice is capping once."""
    capped = cap_promotions(order, cap)
    assert cap_promotions(capped, cap) == capped
    if all(rank - place <= cap for place, rank in enumerate(order)):
        assert capped == tuple(order)


@given(order=st.integers(0, 6).flatmap(lambda count: st.permutations(range(count))), cap=st.integers(1, 6))
def test_as_close_to_the_wish_as_allowed(order: list[int], cap: int) -> None:
    """Of all allowed orders, the one whose places, from the first on, go to those who were wished there first."""
    wished = {rank: place for place, rank in enumerate(order)}
    allowed = (other for other in permutations(order) if all(rank - place <= cap for place, rank in enumerate(other)))
    assert cap_promotions(order, cap) == min(allowed, key=lambda other: [wished[rank] for rank in other])


@pytest.mark.parametrize("order", [[0, 2], [0, 0], [-1, 0], [1, 2]])
def test_what_is_no_permutation_is_refused(order: list[int]) -> None:
    """A candidate that is missing or there twice is a bug of the caller, not something to repair."""
    with pytest.raises(ValueError, match="each first-stage rank from 0 to 1 once"):
        cap_promotions(order, 1)


def test_a_negative_cap_is_refused() -> None:
    """Nobody can be forced to fall."""
    with pytest.raises(ValueError, match="cap of -1 places is impossible"):
        cap_promotions([0, 1], -1)
