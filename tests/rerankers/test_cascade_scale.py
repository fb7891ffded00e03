"""The scores of two stages on one scale."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sidecar.rerankers.cascade_scale import best_positions, one_scale

Stages = tuple[list[float], list[float], int]
FEW = st.integers(-3, 3).map(float)  # so that ties are common
ANY = st.one_of(FEW, st.floats(-1e6, 1e6, allow_subnormal=False))


@st.composite
def stages(draw: st.DrawFn) -> Stages:
    """First-stage scores, second-stage scores of the best of them, and how many those are."""
    first = draw(st.lists(ANY, min_size=1, max_size=40))
    count = draw(st.integers(1, 20))
    seen = min(count, len(first))
    return first, draw(st.lists(ANY, min_size=seen, max_size=seen)), count


@given(stages())
def test_second_stage_stands_above_the_rest(drawn: Stages) -> None:
    """Whatever the scores: finite, who was seen twice strictly above the others, and those with the first's scores."""
    first, second, count = drawn
    top = best_positions(first, count)
    scores = one_scale(first, top, second)
    assert len(scores) == len(first)
    assert all(map(math.isfinite, scores))
    rest = [position for position in range(len(first)) if position not in top]
    assert all(scores[position] == first[position] for position in rest)
    if rest:
        assert min(scores[position] for position in top) > max(scores[position] for position in rest)


@given(stages())
def test_order_and_ties_are_the_second_stages(drawn: Stages) -> None:
    """What the second stage finds better is never lower, and what it finds equal is equal."""
    first, second, count = drawn
    top = best_positions(first, count)
    scores = one_scale(first, top, second)
    for one, one_position in zip(second, top, strict=True):
        for other, other_position in zip(second, top, strict=True):
            if one == other:
                assert scores[one_position] == scores[other_position]
            elif one > other:
                assert scores[one_position] >= scores[other_position]


def test_exact_figures() -> None:
    """The best gets the first stage's highest score, the worst one part of three above the best of the rest, and
    distances between them are the second stage's."""
    first = [9.0, 6.0, 3.0, 1.0, 8.0]
    assert best_positions(first, 3) == (0, 4, 1)
    assert one_scale(first, (0, 4, 1), [0.0, 0.25, 1.0]) == (5.0, 9.0, 3.0, 1.0, 6.0)


def test_first_stage_without_an_opinion() -> None:
    """Where all have the same score the second stage's order still holds, above the rest."""
    assert best_positions([5.0] * 4, 2) == (0, 1)
    assert one_scale([5.0] * 4, (0, 1), [0.0, 1.0]) == (7.5, 10.0, 5.0, 5.0)


def test_nobody_was_seen_twice() -> None:
    """Then the scores are the first stage's."""
    assert one_scale([1.0, 2.0], (), []) == (1.0, 2.0)
