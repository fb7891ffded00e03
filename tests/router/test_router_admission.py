"""Who computes next, and who is told at once that it would be too late: exact cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.admission import Claim, Level, Order, admits, startable, wait_s

OWN = Order.MANDATORY_FIRST


def mandatory(end: float, needs_s: float, spare_s: float = 0.0, arrived: float = 0.0) -> Claim:
    """A mandatory claim."""
    return Claim(Level.MANDATORY, end, needs_s, spare_s, arrived)


EARLY = Claim(Level.OPTIONAL, end=1.0, needs_s=0.1, arrived=3.0)
LATE = Claim(Level.MANDATORY, end=9.0, needs_s=0.1, arrived=2.0)
MIDDLE = Claim(Level.MANDATORY, end=5.0, needs_s=0.1, arrived=1.0)
IDLE = Claim(Level.IDLE, end=0.5, needs_s=0.1, arrived=0.0)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (OWN, [MIDDLE, LATE, EARLY, IDLE]),
        (Order.EDF, [EARLY, MIDDLE, LATE, IDLE]),
        (Order.FIFO, [MIDDLE, LATE, EARLY, IDLE]),
    ],
)
def test_who_goes_first(order: Order, expected: list[Claim]) -> None:
    """By part and then deadline, by deadline alone, by arrival; work that nobody waits for is always last."""
    claims = [IDLE, EARLY, LATE, MIDDLE]
    first, late = startable(order, claims, now=0.0)
    assert [claims[position] for position in first] == expected
    assert late == []


def test_wait_is_what_goes_before() -> None:
    """0.2 s under way, 0.3 s with an earlier deadline; later deadlines and optional work do not count."""
    claims = [mandatory(1.0, 0.3), mandatory(3.0, 0.4), Claim(Level.OPTIONAL, 0.5, 0.5)]
    assert wait_s(OWN, claims, mandatory(2.0, 0.1), busy_s=0.2) == pytest.approx(0.5)
    assert wait_s(OWN, claims, mandatory(2.0, 0.1), busy_s=0.2, workers=2) == pytest.approx(0.25)
    assert wait_s(Order.EDF, claims, mandatory(2.0, 0.1), busy_s=0.2) == pytest.approx(1.0)


def test_admission_is_exact() -> None:
    """Behind 0.2 s under way and 0.3 s admitted, 0.5 s of work fits a deadline of 1.0 and no earlier one."""
    admitted = [mandatory(0.8, 0.3)]
    assert admits(OWN, admitted, mandatory(1.001, 0.5), busy_s=0.2, now=0.0)
    assert not admits(OWN, admitted, mandatory(0.999, 0.5), busy_s=0.2, now=0.0)


def test_a_newcomer_makes_nobody_late() -> None:
    """It would be in time itself, ahead of one that is in time now and would not be any more."""
    admitted = [mandatory(1.0, 0.6)]
    assert not admits(OWN, admitted, mandatory(0.9, 0.5), busy_s=0.0, now=0.0)
    assert admits(OWN, admitted, mandatory(0.9, 0.4), busy_s=0.0, now=0.0)


def test_spare_time_is_kept_for_the_newcomer_alone() -> None:
    """Work of 0.4 s that may take 0.2 s longer needs 0.6 s when it asks, but delays others by its median only."""
    assert admits(OWN, [], mandatory(0.601, 0.4, spare_s=0.2), busy_s=0.0, now=0.0)
    assert not admits(OWN, [], mandatory(0.59, 0.4, spare_s=0.2), busy_s=0.0, now=0.0)
    assert admits(OWN, [mandatory(0.5, 0.4, spare_s=0.2)], mandatory(1.0, 0.5), busy_s=0.0, now=0.0)


def test_what_is_late_anyway_blocks_nobody() -> None:
    """A claim that can't be in time any more is not counted: it will not be started."""
    assert admits(OWN, [mandatory(0.1, 5.0)], mandatory(1.0, 0.9), busy_s=0.0, now=0.0)


def test_late_work_is_dropped() -> None:
    """What has expired, and that of which not even the least fits any more."""
    claims = [mandatory(1.0, 0.5), mandatory(0.7, 0.5), Claim(Level.OPTIONAL, 1.0, 0.5, least_s=0.1)]
    for order in Order:
        assert startable(order, claims, now=0.8) == ([0, 2], [1])
        assert startable(order, claims, now=0.95) == ([0], [1, 2])


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 3.0)), max_size=30),
    st.floats(0.0, 0.5),
)
def test_all_that_were_admitted_are_in_time(jobs: list[tuple[float, float]], busy_s: float) -> None:
    """Whatever comes, and in whatever order: those admitted one after the other all end in time by deadline."""
    admitted: list[Claim] = []
    for needs_s, end in jobs:
        claim = mandatory(end, needs_s, arrived=float(len(admitted)))
        if admits(OWN, admitted, claim, busy_s, now=0.0):
            admitted.append(claim)
    ends = busy_s
    for claim in sorted(admitted, key=lambda claim: claim.end):
        ends += claim.needs_s
        assert ends <= claim.end + 1e-9
