"""Who is computed in one call with the one whose turn it is: exact cases, and what nobody may lose by it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.admission import Claim, Level, Order, Sharing, admits, along, wait_s
from router.latency import Pace

OWN = Order.MANDATORY_FIRST
# A call takes 10 ms and 0.1 ms for each token; at p95 half as much again.
PACE = Pace(10.0, 0.1, 15.0, 0.15)
SHARING = Sharing(PACE, most_claims=4, longest_ms=30.0)


def claim(tokens: int, end: float = 9.0, level: Level = Level.MANDATORY) -> Claim:
    """Work of so many tokens, with what it takes alone."""
    return Claim(level, end, PACE.at(tokens).p50_ms / 1e3, tokens=tokens)


def test_small_work_behind_goes_along() -> None:
    """20 tokens each: three of them are 16 ms in one call, and 36 ms in three."""
    assert along(claim(20), [claim(20), claim(20)], SHARING, now=0.0) == 2


def test_no_more_than_may_be_in_a_call() -> None:
    """Four, with the one whose turn it is."""
    assert along(claim(10), [claim(10)] * 9, SHARING, now=0.0) == 3


def test_a_call_stays_short() -> None:
    """10 ms and 0.1 ms for each of 200 tokens are the 30 ms that a call may take."""
    assert along(claim(100), [claim(50), claim(50), claim(1)], SHARING, now=0.0) == 2


@pytest.mark.parametrize(("end", "expected"), [(0.0211, 1), (0.0209, 0)])
def test_everybody_in_a_call_is_in_time(end: float, expected: int) -> None:
    """40 tokens take 21 ms at p95: whoever of the two must be done before that is computed alone."""
    assert along(claim(20, end), [claim(20)], SHARING, now=0.0) == expected
    assert along(claim(20), [claim(20, end)], SHARING, now=0.0) == expected


def test_long_work_is_worth_its_own_call() -> None:
    """101 tokens would keep the first waiting for 10.1 ms, and save 10; two behind them save 10 each as well."""
    assert along(claim(10), [claim(101)], SHARING, now=0.0) == 0
    assert along(claim(10), [claim(101), claim(150), claim(150)], SHARING, now=0.0) == 1


def test_nobody_is_passed_over() -> None:
    """What can't go along, or is of another part, ends the call: those behind it wait for their turn."""
    for other in (claim(0), claim(20, level=Level.OPTIONAL), claim(500)):
        assert along(claim(20), [other, claim(20)], SHARING, now=0.0) == 0
    assert along(claim(0), [claim(20)], SHARING, now=0.0) == 0


CLAIMS = st.lists(st.tuples(st.integers(0, 300), st.floats(0.001, 0.5)), min_size=1, max_size=12)


@given(CLAIMS, st.floats(0.0, 0.1))
def test_waiting_becomes_no_longer(drawn: list[tuple[int, float]], now: float) -> None:
    """The mean time until somebody's work is done is never longer than with a call for each, in the median; and all of
    a call are in time at p95."""
    claims = [claim(*each) for each in drawn]
    joined = along(claims[0], claims[1:], SHARING, now)
    alone = list(itertools.accumulate(each.needs_s for each in claims))
    together = claims[: 1 + joined]
    tokens = sum(each.tokens for each in together)
    call_s = PACE.at(tokens).p50_ms / 1e3 if joined else claims[0].needs_s
    rest = itertools.accumulate((each.needs_s for each in claims[1 + joined :]), initial=call_s)
    shared = [call_s] * joined + list(rest)
    assert len(shared) == len(alone)
    assert sum(shared) <= sum(alone) + 1e-9
    if joined:
        assert now + PACE.at(tokens).p95_ms / 1e3 <= min(each.end for each in together)


def test_admission_counts_on_shared_calls() -> None:
    """Behind three of 12 ms there are 36 ms to wait where each has its own call, and 16 where they share one."""
    admitted = [claim(20, end=0.2)] * 3
    new = claim(20, end=0.035)
    later = claim(20, end=0.3)
    assert wait_s(OWN, admitted, later, busy_s=0.0) == pytest.approx(0.036)
    assert wait_s(OWN, admitted, later, busy_s=0.0, sharing=SHARING) == pytest.approx(0.016)
    queue = [claim(20, end=0.030)] * 3
    assert not admits(OWN, queue, new, busy_s=0.0, now=0.0)
    assert admits(OWN, queue, new, busy_s=0.0, now=0.0, sharing=SHARING)


@given(CLAIMS)
def test_all_that_were_admitted_are_in_time(drawn: list[tuple[int, float]]) -> None:
    """Whatever comes, and in whatever order: computed by deadline, in the calls that `along` makes, all end in time."""
    admitted: list[Claim] = []
    for each in drawn:
        new = claim(*each)
        if admits(OWN, admitted, new, busy_s=0.0, now=0.0, sharing=SHARING):
            admitted.append(new)
    queue = sorted(admitted, key=lambda claim: claim.end)
    at = 0.0
    while queue:
        joined = along(queue[0], queue[1:], SHARING, at)
        together, queue = queue[: 1 + joined], queue[1 + joined :]
        at += PACE.at(sum(each.tokens for each in together)).p50_ms / 1e3 if joined else together[0].needs_s
        assert all(at <= each.end + 1e-9 for each in together)
