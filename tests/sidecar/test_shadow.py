"""Shadow evaluation: what a reference thinks of answers that are out, and that nobody ever notices it."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracerProvider

from router.arms import Availability, State, Strategy
from router.policy import Routing
from sidecar import shadow as shadow_module
from sidecar.messages import Answer, CacheStatus
from sidecar.rerankers.base import BackendError, Limits, Scored, ScoreRequest
from sidecar.settings import Mode
from sidecar.shadow import Dropped, Evaluation, Shadow, drawn
from sidecar.shadow_log import ShadowLog
from tests.helpers import MARKER, Rig, ScriptedReranker, arm_data, profile, request, rig

TEXTS = ("grey", "red", "red green", "white")
SOON_S = 30.0  # only a test that hangs waits so long


class Teacher(ScriptedReranker):
    """The reference: scores texts as told."""

    def __init__(self, opinions: Mapping[str, float], **fields: Any) -> None:
        super().__init__("teacher", Strategy.LLM, **fields)
        self.opinions = opinions

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        scored = await super().score(request, timeout_s)
        return replace(scored, scores=tuple(self.opinions[document.text] for document in request.documents))


class Watched:
    """A pipeline with a shadow, and what that told."""

    def __init__(self, *others: ScriptedReranker, teacher: Teacher, share: float = 1.0, k: int = 50) -> None:
        self.evaluations: list[Evaluation] = []
        self.dropped: list[Dropped] = []
        rerankers = {each.identity.name: each for each in (*others, teacher)}
        self.shadow = Shadow(
            rerankers=rerankers,
            reference="teacher",
            share=share,
            k=k,
            tracer=NoOpTracerProvider().get_tracer("tests"),
            on_evaluated=self.evaluations.append,
            on_dropped=self.dropped.append,
        )
        self.parts: Rig = rig(
            *others,
            teacher,
            profiles=[profile(scripted=arm_data(weights={"bm25": 0.0}), signals=arm_data("signals", gain=-0.1))],
            shadow=self.shadow,
        )

    async def answer(self, *texts: str, **fields: Any) -> Answer:
        sent = request("red green", *(texts or TEXTS), **{"budget_ms": 10_000.0, **fields})
        return await self.parts.pipeline.rerank(sent, None, self.parts.clock())

    async def outcome(self) -> Evaluation | Dropped:
        """What became of the only request that was drawn."""
        async with asyncio.timeout(SOON_S):
            while not self.evaluations and not self.dropped:
                await asyncio.sleep(0.005)
        assert len(self.evaluations) + len(self.dropped) == 1
        return (*self.evaluations, *self.dropped)[0]


def agreeing() -> Teacher:
    return Teacher({"grey": -2.0, "red": 0.5, "red green": 8.0, "white": -1.0})


async def test_agreement_with_the_reference_by_hand() -> None:
    """The answer is 2, 1, 0, 3 (words in common, ties in first-stage order), the teacher prefers 2, 1, 3, 0: overlaps
    1, 2, 2, 4 at p = 0.9. Its scores between -2 and 8 are gains 0, 0.25, 1, 0.1."""
    scripted, teacher = ScriptedReranker(), agreeing()
    watched = Watched(scripted, teacher=teacher)
    signals = [{"bm25": 4.0}, {"bm25": 3.0}, {}, {"bm25": 1.0}]
    answer = await watched.answer(signals=signals)
    assert [item.position for item in answer.outcome.ranked] == [2, 1, 0, 3]
    evaluation = await watched.outcome()
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.answered, evaluation.preferred) == ((2, 1, 0, 3), (2, 1, 3, 0))
    by_hand = 0.9**4 + (0.9 + 0.9**2 + 2 / 3 * 0.9**3 + 0.9**4) / 9
    assert evaluation.rbo == pytest.approx(by_hand, abs=1e-12)
    ideal = 1 + 0.25 / math.log2(3) + 0.1 / 2
    assert evaluation.ndcg == pytest.approx((1 + 0.25 / math.log2(3) + 0.1 / math.log2(5)) / ideal, abs=1e-12)
    assert evaluation.id == answer.explanation.decision_id
    assert (evaluation.strategy, evaluation.answer, evaluation.reference) == (
        "cross_encoder",
        scripted.identity,
        teacher.identity,
    )
    assert evaluation.lengths == (4, 3, 9, 5)
    assert evaluation.signals == {"bm25": (4.0, 3.0, None, 1.0)}
    assert evaluation.answer_scores == (0.0, 1.0, 2.0, 0.0)
    assert evaluation.reference_scores == (-2.0, 0.5, 8.0, -1.0)


async def test_only_the_first_k_are_judged_and_the_whole_answer_is_seen() -> None:
    """With k = 3, and an answer that the caller had cut to one result: the order of the first three candidates."""
    watched = Watched(ScriptedReranker(), teacher=agreeing(), k=3)
    answer = await watched.answer(top_n=1)
    assert len(answer.outcome.ranked) == 1
    evaluation = await watched.outcome()
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.answered, evaluation.preferred) == ((2, 1, 0), (2, 1, 0))
    assert (evaluation.rbo, evaluation.ndcg) == (pytest.approx(1.0), 1.0)


async def test_first_stage_order_is_judged_too() -> None:
    """Where the router takes nothing, agreement says whether it should have: strategy none, no model's scores."""
    watched = Watched(teacher=agreeing())
    await watched.answer()
    evaluation = await watched.outcome()
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.strategy, evaluation.answer) == ("none", None)
    assert evaluation.answered == (0, 1, 2, 3)
    assert evaluation.answer_scores == (None,) * 4


async def test_reference_without_an_opinion() -> None:
    """Equal scores: RBO against first-stage order, which ties keep; no nDCG."""
    watched = Watched(teacher=Teacher(dict.fromkeys(TEXTS, 1.0)))
    await watched.answer()
    evaluation = await watched.outcome()
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.rbo, evaluation.ndcg) == (pytest.approx(1.0), None)


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


async def test_other_modes() -> None:
    """Observing, the caller got first-stage order, and that is judged; off, nothing is computed."""
    watched = Watched(ScriptedReranker(), teacher=agreeing())
    watched.parts.pipeline.mode = Mode.OFF
    await watched.answer()
    await asyncio.sleep(0.1)
    assert (watched.evaluations, watched.dropped) == ([], [])
    watched.parts.pipeline.mode = Mode.OBSERVE
    await watched.answer()
    evaluation = await watched.outcome()
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.strategy, evaluation.answered) == ("none", (0, 1, 2, 3))


async def test_kept_answers_and_forced_ones_are_judged() -> None:
    """Agreement is by what callers get, so that popular requests count as often as they are asked."""
    watched = Watched(ScriptedReranker(), teacher=agreeing())
    await watched.answer()
    await watched.outcome()
    hit = await watched.answer(request_id="r-2")
    assert hit.cache is CacheStatus.HIT
    async with asyncio.timeout(SOON_S):
        while len(watched.evaluations) < 2:
            await asyncio.sleep(0.005)
        await watched.answer(request_id="r-3", routing=Routing(reranker="teacher"))
        while len(watched.evaluations) < 3:
            await asyncio.sleep(0.005)
    first, second, third = watched.evaluations
    assert (second.rbo, second.answer_scores) == (first.rbo, first.answer_scores)
    assert (third.strategy, third.rbo) == ("llm", pytest.approx(1.0))


def test_share_is_drawn_by_the_request_id() -> None:
    """Of 10,000 ids about the share (within 4 standard deviations), the same ones each time and in every process, and
    a larger share holds a smaller one. 0 draws none, 1 all."""
    ids = [f"request-{number}" for number in range(10_000)]
    small, large = ({each for each in ids if drawn(each, share)} for share in (0.05, 0.2))
    assert abs(len(small) - 500) < 4 * math.sqrt(10_000 * 0.05 * 0.95)
    assert abs(len(large) - 2000) < 4 * math.sqrt(10_000 * 0.2 * 0.8)
    assert small < large
    assert drawn("request-1", 0.0) is False
    assert all(drawn(each, 1.0) for each in ids)
    assert [each for each in ids[:60] if drawn(each, 0.05)] == ["request-52"]  # as ever: several sidecars agree


async def test_what_is_not_drawn_is_left_alone() -> None:
    """Share 0: no task, no call."""
    teacher = agreeing()
    watched = Watched(teacher=teacher, share=0.0)
    await watched.answer()
    await asyncio.sleep(0.1)
    assert (teacher.calls, watched.dropped) == ([], [])


async def test_record_holds_no_text(tmp_path: Path) -> None:
    """The file has numbers and configured names; neither query nor document, nor a candidate's or a request's id."""
    texts = tuple(f"{MARKER} {word}" for word in TEXTS)
    watched = Watched(ScriptedReranker(), teacher=Teacher({text: float(rank) for rank, text in enumerate(texts)}))
    path = tmp_path / "shadow.jsonl"
    log = ShadowLog(path, 1_000_000)
    await watched.answer(*texts, request_id=MARKER, instruction=MARKER)
    evaluation = await watched.outcome()
    assert isinstance(evaluation, Evaluation)
    log.record(evaluation)
    log.close()
    assert MARKER not in path.read_text()
    assert json.loads(path.read_text())["scores"]["teacher"] == [0.0, 1.0, 2.0, 3.0]
