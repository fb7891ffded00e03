"""Shadow evaluation is never noticed: it comes after the answer, waits for idle moments and ends at once."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest

from router.arms import Availability, State
from sidecar import shadow as shadow_module
from sidecar.rerankers.base import BackendError, Limits
from sidecar.shadow import Dropped, Evaluation
from tests.helpers import MARKER, ScriptedReranker
from tests.sidecar.shadowed import SOON_S, TEXTS, Teacher, Watched, agreeing


async def test_answer_is_out_before_the_reference_is_asked() -> None:
    """The answer, its cost and its time are those of a pipeline without a shadow; only then the reference is called,
    without kept scores, and nothing that it does teaches a latency estimator."""
    scripted, teacher = ScriptedReranker(), agreeing()
    watched = Watched(scripted, teacher=teacher)
    teacher.gate = asyncio.Event()
    answer = await watched.answer()
    assert teacher.calls == []
    estimates = watched.parts.pipeline._estimates
    before = [each["teacher"].pace(watched.parts.clock()) for each in (estimates.stage, estimates.chunk)]
    async with asyncio.timeout(SOON_S):
        await teacher.entered.wait()
    again = await watched.answer(request_id="r-2", use_cache=False)  # while the reference is being asked
    assert again.outcome.ranked == answer.outcome.ranked
    assert again.outcome.usage == answer.outcome.usage
    teacher.gate.set()
    async with asyncio.timeout(SOON_S):
        while not watched.evaluations:
            await asyncio.sleep(0.005)
    assert [call.use_cache for call in teacher.calls] == [False] * len(teacher.calls)
    assert [each["teacher"].pace(watched.parts.clock()) for each in (estimates.stage, estimates.chunk)] == before
    assert watched.dropped == [Dropped.BUSY]  # the second request was drawn too, and only one is looked at at a time


async def test_request_that_arrives_meanwhile_ends_it() -> None:
    """With the first chunk out, a request comes: no second chunk starts, and what was scored is thrown away."""
    scripted, teacher = ScriptedReranker(), agreeing()
    watched = Watched(scripted, teacher=teacher)
    await watched.answer()
    teacher.gate = asyncio.Event()
    async with asyncio.timeout(SOON_S):
        await teacher.entered.wait()
    scripted.gate = asyncio.Event()
    scripted.entered.clear()
    under_way = asyncio.create_task(watched.answer(tenant="another"))
    await scripted.entered.wait()
    teacher.gate.set()
    async with asyncio.timeout(SOON_S):
        while not watched.dropped:
            await asyncio.sleep(0.005)
    assert watched.dropped == [Dropped.BUSY]
    assert [len(call.documents) for call in teacher.calls] == [1]
    scripted.gate.set()
    assert [item.position for item in (await under_way).outcome.ranked] == [2, 1, 0, 3]


async def test_queue_of_any_reranker_keeps_it_from_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for an idle moment, and not for ever; the reference is never asked."""
    monkeypatch.setattr(shadow_module, "PATIENCE_S", 0.1)
    scripted, teacher = ScriptedReranker(), agreeing()
    watched = Watched(scripted, teacher=teacher)
    monkeypatch.setattr(scripted, "queue_ms", lambda end=0.0: 3.0)
    await watched.answer()
    assert await watched.outcome() is Dropped.BUSY
    assert teacher.calls == []


async def test_it_begins_as_soon_as_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that empties in time is waited for."""
    scripted, teacher = ScriptedReranker(), agreeing()
    watched = Watched(scripted, teacher=teacher)
    queue = [3.0] * 5
    monkeypatch.setattr(scripted, "queue_ms", lambda end=0.0: queue.pop() if queue else 0.0)
    await watched.answer()
    assert isinstance(await watched.outcome(), Evaluation)


async def test_draining_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not begun never does; closing the pipeline leaves no task."""
    monkeypatch.setattr(shadow_module, "PATIENCE_S", 0.1)
    watched = Watched(teacher=agreeing())
    await watched.answer()
    watched.parts.pipeline.draining = True
    assert await watched.outcome() is Dropped.BUSY
    await watched.answer(request_id="r-2")
    await asyncio.sleep(0.1)
    assert watched.dropped == [Dropped.BUSY]
    await watched.parts.pipeline.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "shadow"]


async def test_close_stops_what_is_under_way() -> None:
    """A reference that hangs does not hold up the end of the process."""
    teacher = agreeing()
    watched = Watched(teacher=teacher)
    await watched.answer()
    teacher.gate = asyncio.Event()
    async with asyncio.timeout(SOON_S):
        await teacher.entered.wait()
        await watched.parts.pipeline.close()
    assert teacher.cancelled == 1
    assert (watched.evaluations, watched.dropped) == ([], [])


@pytest.mark.parametrize(
    ("prepare", "texts", "reason"),
    [
        (lambda teacher: teacher.script.append(BackendError("down")), TEXTS, Dropped.FAILED),
        (lambda teacher: teacher.script.append(TimeoutError()), TEXTS, Dropped.FAILED),
        (lambda teacher: teacher.script.append(RuntimeError(MARKER)), TEXTS, Dropped.FAILED),
        (lambda teacher: teacher.opinions.update(grey=math.nan), TEXTS, Dropped.FAILED),
        (lambda teacher: setattr(teacher, "state", Availability(State.WARMING)), TEXTS, Dropped.NOT_READY),
        (lambda teacher: None, ("grey",), Dropped.CANNOT_SCORE),
    ],
)
async def test_reference_that_cannot(
    prepare: Any, texts: tuple[str, ...], reason: Dropped, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it does is counted and costs nobody anything; a bug is logged by its place, without its words."""
    teacher = agreeing()
    watched = Watched(teacher=teacher)
    prepare(teacher)
    answer = await watched.answer(*texts)
    assert answer.outcome.degradations == ()
    assert await watched.outcome() is reason
    assert MARKER not in caplog.text


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (Limits(max_chunk_documents=30, whole_list=True), [30]),
        (Limits(max_chunk_documents=16, side_by_side=True), [16, 16, 8]),
    ],
)
async def test_lists_that_need_no_small_chunks(limits: Limits, sizes: list[int]) -> None:
    """A reranker that ranks the whole list gets what it takes in one call; one that works side by side, all it can."""
    teacher = Teacher({f"t{number}": float(number) for number in range(40)}, limits=limits)
    watched = Watched(teacher=teacher)
    await watched.answer(*teacher.opinions)
    assert isinstance(await watched.outcome(), Evaluation)
    assert [len(call.documents) for call in teacher.calls] == sizes


async def test_chunks_begin_with_one_document_and_grow_while_they_are_quick() -> None:
    """Never more than twice the one before, so that the first long text does not hold up a request; nor more than
    the reranker takes. (On a busy machine a chunk may take its 15 ms: then the next one does not grow.)"""
    teacher = Teacher({f"t{number}": float(number) for number in range(40)}, limits=Limits(max_chunk_documents=8))
    watched = Watched(teacher=teacher)
    await watched.answer(*teacher.opinions)
    assert isinstance(await watched.outcome(), Evaluation)
    calls = [len(call.documents) for call in teacher.calls]
    assert (calls[0], sum(calls)) == (1, 40)
    assert all(later <= min(8, 2 * earlier) for earlier, later in itertools.pairwise(calls))
