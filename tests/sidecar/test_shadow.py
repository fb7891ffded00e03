"""Shadow evaluation: which answers a reference judges, what it thinks of them, and what of that is kept."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from router.policy import Routing
from sidecar.messages import CacheStatus
from sidecar.settings import Mode
from sidecar.shadow import Evaluation, drawn
from sidecar.shadow_log import ShadowLog
from tests.helpers import MARKER, ScriptedReranker
from tests.sidecar.shadowed import SOON_S, TEXTS, Teacher, Watched, agreeing


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
