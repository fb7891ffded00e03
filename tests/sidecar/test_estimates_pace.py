"""What the router is told about a stage, where its chunks know better."""

from __future__ import annotations

import pytest

from router.arms import Work
from sidecar.estimates import Estimates
from sidecar.rerankers.base import Limits
from tests.helpers import Clock, ScriptedReranker, arm_data, profile

WORK = Work(tokens=(10, 10, 10))


def estimates_of(reranker: ScriptedReranker, clock: Clock) -> Estimates:
    return Estimates({"scripted": reranker}, profile(scripted=arm_data(ms_per_token=1.0)), clock)


def test_a_stage_whose_first_chunk_would_not_start_is_not_planned() -> None:
    """Chunks that were cut off teach the chunks' estimator only. The stage's p95 is raised so far that it fits exactly
    where its first chunk does; the median, which prices the arm, stays."""
    clock = Clock()
    estimates = estimates_of(ScriptedReranker(), clock)
    plain = estimates.stage["scripted"].pace(clock())
    assert estimates.pace("scripted", WORK, clock()) == plain
    for _ in range(20):
        estimates.chunk["scripted"].observe_timeout(10, 200.0, clock())
    raised = estimates.pace("scripted", WORK, clock())
    first_chunk = estimates.chunk["scripted"].predict(10, clock())
    assert first_chunk.p95_ms > 200.0
    assert raised.at(10).p95_ms == pytest.approx(first_chunk.p95_ms)
    assert raised.at(10).p50_ms == plain.at(10).p50_ms


def test_a_listwise_arm_has_no_chunks() -> None:
    """One call takes the whole list: what the chunks' estimator thinks of it is not asked before it starts."""
    clock = Clock()
    estimates = estimates_of(ScriptedReranker(limits=Limits(max_chunk_documents=50, whole_list=True)), clock)
    estimates.chunk["scripted"].observe_timeout(10, 5000.0, clock())
    assert estimates.pace("scripted", WORK, clock()) == estimates.stage["scripted"].pace(clock())


def test_no_work_left_is_the_stages_own_pace() -> None:
    """A reranker that says nothing about its work (it is off) is not priced by its chunks."""
    clock = Clock()
    estimates = estimates_of(ScriptedReranker(), clock)
    estimates.chunk["scripted"].observe_timeout(10, 5000.0, clock())
    assert estimates.pace("scripted", Work(()), clock()) == estimates.stage["scripted"].pace(clock())
