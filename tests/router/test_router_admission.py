"""Who computes next: exact cases, then a simulated model under twice and ten times what it can do."""

from __future__ import annotations

import random
from dataclasses import dataclass

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
    """Mandatory work that would end late, and everything that has expired; the rivals drop only the latter."""
    claims = [mandatory(1.0, 0.5), mandatory(2.0, 0.5), Claim(Level.OPTIONAL, 1.0, 0.5), mandatory(0.7, 0.5)]
    assert startable(OWN, claims, now=0.8) == ([1, 2], [0, 3])
    for order in (Order.EDF, Order.FIFO):
        assert startable(order, claims, now=0.8)[1] == [3]


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


DOCUMENTS, FIRST, DOCUMENT_S = 50, 16, 0.0009


@dataclass(slots=True, eq=False)
class Job:
    """One simulated request."""

    arrived: float
    end: float
    scored: int = 0

    def claim(self, order: Order) -> Claim:
        last = FIRST if order is OWN and self.scored < FIRST else DOCUMENTS
        level = Level.OPTIONAL if order is OWN and self.scored >= FIRST else Level.MANDATORY
        return Claim(level, self.end, (last - self.scored) * DOCUMENT_S, arrived=self.arrived)


def useful_share(order: Order, factor: float, seconds: float = 60.0) -> float:
    """Share of requests with `FIRST` documents scored in time, on one model that takes `DOCUMENT_S` a document.

    ``factor`` times as many requests as could be scored whole, budgets of 50, 100 and 200 ms, chunks of `FIRST`
    documents that start only if they end in time.
    """
    source = random.Random(3)
    jobs, at = list[Job](), 0.0
    while (at := at + source.expovariate(factor / (DOCUMENTS * DOCUMENT_S))) < seconds:
        jobs.append(Job(at, at + source.choice((0.05, 0.1, 0.2))))
    coming, waiting, now = iter(jobs), list[Job](), 0.0
    upcoming = next(coming, None)
    while upcoming is not None or waiting:
        while upcoming is not None and (upcoming.arrived <= now or not waiting):
            now = max(now, upcoming.arrived)
            # ``now`` is when the model is free again: until then it is busy.
            claims = [job.claim(order) for job in waiting]
            if admits(order, claims, upcoming.claim(order), now - upcoming.arrived, upcoming.arrived):
                waiting.append(upcoming)
            upcoming = next(coming, None)
        first, late = startable(order, [job.claim(order) for job in waiting], now)
        job = waiting[first[0]] if first else None
        waiting = [one for position, one in enumerate(waiting) if position not in late]
        if job is None:
            continue
        size = min(FIRST, DOCUMENTS - job.scored, int((job.end - now) / DOCUMENT_S))
        job.scored += size
        now += size * DOCUMENT_S
        if size == 0 or job.scored == DOCUMENTS:
            waiting.remove(job)
    return sum(job.scored >= FIRST for job in jobs) / len(jobs)


@pytest.mark.parametrize(("factor", "least"), [(2.0, 0.85), (10.0, 0.2)])
def test_more_callers_get_something_than_in_other_orders(factor: float, least: float) -> None:
    """The share of useful answers beats FIFO and EDF at twice and at ten times the capacity."""
    own, edf, fifo = (useful_share(order, factor) for order in (OWN, Order.EDF, Order.FIFO))
    assert own >= least
    assert own > edf + 0.05
    assert own > fifo + 0.05


def test_without_overload_everybody_is_served_in_any_order() -> None:
    """At half the capacity at least 90 % have their first documents scored, whatever the order."""
    assert all(useful_share(order, 0.5) > 0.9 for order in Order)
