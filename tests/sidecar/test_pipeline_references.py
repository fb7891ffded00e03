"""Documents that lie in an index and bring no text: who can score them, and what is said where nobody can."""

from __future__ import annotations

from typing import Any

import pytest
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Availability, State, Strategy, Work
from router.policy import Reason, RerankerOffError, Routing, Verdict
from sidecar.messages import Answer, Candidate, Completeness, DegradationReason, Overrun, Request
from sidecar.pipeline import UnavailableError
from sidecar.rerankers.base import Document, IndexedRef, Limits, Scored, ScoreRequest
from tests.e2e.rpc import connected, failure_of
from tests.helpers import Rig, ScriptedReranker, arm_data, profile, request, rig

REFUSAL = "3 of 3 documents have no text"


class Indexed(ScriptedReranker):
    """A scripted reranker that needs no texts: a document's score is the number that its reference is."""

    def __init__(self, name: str = "indexed") -> None:
        super().__init__(name, Strategy.LATE_INTERACTION, limits=Limits(max_chunk_documents=64, reads_text=False))

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        self.script = [Scored(tuple(_number(document) for document in request.documents), tokens=1, compute_ms=0.01)]
        return await super().score(request, timeout_s)


def _number(document: Document) -> float:
    assert document.indexed_ref is not None
    return float(document.indexed_ref.id)


def asked(*texts: str, **fields: Any) -> Request:
    """Three documents of an index, in rising order of their scores in `Indexed`; without texts if none are given."""
    candidates = tuple(
        Candidate(f"id-{number}", text, {}, False, IndexedRef("docs", str(number)))
        for number, text in enumerate(texts or ("", "", ""))
    )
    return request("red green", **{"candidates": candidates, "budget_ms": 60_000.0, **fields})


def both() -> Rig:
    """A reranker that reads texts and promises more, beside one that does not."""
    known = profile(scripted=arm_data(gain=0.2), indexed=arm_data("late_interaction", gain=0.1))
    return rig(ScriptedReranker(), Indexed(), profiles=[known])


async def answered(parts: Rig, sent: Request) -> Answer:
    return await parts.pipeline.rerank(sent, None, parts.clock())


def order_of(answer: Answer) -> list[int]:
    return [item.position for item in answer.outcome.ranked]


async def test_auto_without_anybody_who_can_score_says_so() -> None:
    """Invariant 5: only rerankers that read texts: first-stage order, INDEX_UNAVAILABLE, and nobody is asked."""
    reranker = ScriptedReranker()
    answer = await answered(rig(reranker), asked())
    assert order_of(answer) == [0, 1, 2]
    assert answer.outcome.completeness is Completeness.FIRST_STAGE_ONLY
    (degradation,) = answer.outcome.degradations
    assert degradation.reason is DegradationReason.INDEX_UNAVAILABLE
    assert "documents have no text" in degradation.detail
    decision = answer.explanation.decision
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.NO_GAIN)
    assert [(arm.verdict, arm.detail) for arm in decision.considered if arm.reranker] == [
        (Verdict.CANNOT_SCORE, REFUSAL)
    ]
    assert reranker.calls == []


async def test_one_document_without_text_is_enough() -> None:
    """A reranker that reads texts scores all candidates or none of them: the detail counts those that lack theirs."""
    answer = await answered(rig(ScriptedReranker()), asked("red", "", "green"))
    assert [each.reason for each in answer.outcome.degradations] == [DegradationReason.INDEX_UNAVAILABLE]
    assert "1 of 3 documents have no text" in {arm.detail for arm in answer.explanation.decision.considered}


async def test_auto_with_fail_policy_is_unavailable() -> None:
    """Invariant 2: an error only where FAIL was asked for, and no matter of time."""
    with pytest.raises(UnavailableError) as caught:
        await answered(rig(ScriptedReranker()), asked(overrun=Overrun.FAIL))
    assert caught.value.reason is DegradationReason.INDEX_UNAVAILABLE


async def test_first_stage_order_by_choice_is_no_degradation() -> None:
    """Strategy NONE and a single document need no scores: both are full answers."""
    for sent in (asked(routing=Routing(Strategy.NONE)), asked(candidates=asked().candidates[:1])):
        answer = await answered(rig(ScriptedReranker()), sent)
        assert (answer.outcome.completeness, answer.outcome.degradations) == (Completeness.FULL, ())


async def test_signals_need_no_text() -> None:
    """Where fusion of the signals helps, it is taken, and nothing is missing."""
    known = profile(scripted=arm_data(), signals=arm_data("signals"))
    signals = [{"bm25": float(number)} for number in range(3)]
    candidates = tuple(each._replace(signals=own) for each, own in zip(asked().candidates, signals, strict=True))
    answer = await answered(rig(ScriptedReranker(), profiles=[known]), asked(candidates=candidates))
    assert answer.explanation.decision.strategy is Strategy.SIGNALS
    assert (order_of(answer), answer.outcome.degradations) == ([2, 1, 0], ())


async def test_auto_takes_the_reranker_that_needs_no_text() -> None:
    """Without texts the lesser arm, which scores by reference, is taken; with them the better one."""
    without = await answered(both(), asked())
    assert (without.explanation.decision.reranker, order_of(without)) == ("indexed", [2, 1, 0])
    assert (without.outcome.completeness, without.outcome.degradations) == (Completeness.FULL, ())
    with_texts = await answered(both(), asked("red", "blue", "white"))
    assert with_texts.explanation.decision.reranker == "scripted"


@pytest.mark.parametrize("routing", [Routing(Strategy.CROSS_ENCODER), Routing(reranker="scripted")])
async def test_forced_reranker_that_reads_texts_is_an_error(routing: Routing) -> None:
    """The caller insists on an arm that has nothing to read: an error that counts the documents without text."""
    with pytest.raises(RerankerOffError, match=f"'scripted' can't score these documents: {REFUSAL}"):
        await answered(both(), asked(routing=routing))


async def test_forced_reranker_that_needs_no_text_is_taken() -> None:
    """By name or by strategy."""
    for routing in (Routing(Strategy.LATE_INTERACTION), Routing(reranker="indexed")):
        assert order_of(await answered(both(), asked(routing=routing))) == [2, 1, 0]


class Unloaded(ScriptedReranker):
    """A scripted reranker that is off, and has nothing to tell what work would be with."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Availability(State.OFF, "model.json is missing")

    def work(self, request: ScoreRequest) -> Work:
        raise RuntimeError("not loaded")


@pytest.mark.parametrize("texts", [(), ("red", "blue", "white")])
async def test_arm_that_is_off_is_not_asked(texts: tuple[str, ...]) -> None:
    """What it could do with these documents does not matter: its own reason counts. Something is missing only where
    the documents have no text: then nothing but an index could have scored them."""
    answer = await answered(rig(Unloaded()), asked(*texts))
    assert [(arm.verdict, arm.detail) for arm in answer.explanation.decision.considered if arm.reranker] == [
        (Verdict.OFF, "model.json is missing")
    ]
    reasons = [degradation.reason for degradation in answer.outcome.degradations]
    assert reasons == ([] if texts else [DegradationReason.INDEX_UNAVAILABLE])


async def test_references_tell_kept_answers_apart() -> None:
    """Invariant 9: documents without texts are equal to a digest; their references are in the cache's key."""
    parts = both()
    await answered(parts, asked())
    turned = await answered(parts, asked(candidates=asked().candidates[::-1]))
    assert [item.raw_score for item in turned.outcome.ranked] == [2.0, 1.0, 0.0]
    assert order_of(turned) == [0, 1, 2]
    again = await answered(parts, asked())
    assert (again.cache, order_of(again)) == ("hit", [2, 1, 0])


async def test_forced_text_reranker_is_a_failed_precondition_over_the_wire() -> None:
    """The contract's status for an arm that can't be had, with the words for the caller."""
    documents = [pb.Document(id="a", indexed_ref=pb.IndexedRef(collection="docs", id=str(n))) for n in range(3)]
    sent = pb.RerankRequest(query="q", documents=documents, routing=pb.Routing(reranker="scripted"))
    async with both().served() as (address,), connected(address) as stub:
        failure = await failure_of(stub.Rerank(sent))
    assert (failure.code, failure.info.reason) == ("FAILED_PRECONDITION", "RERANKER_OFF")
    assert REFUSAL in failure.message


async def test_texts_that_nothing_helps_miss_no_index() -> None:
    """An index that does not hold these documents is no loss for documents that have texts."""
    indexed = ScriptedReranker("indexed", Strategy.LATE_INTERACTION, limits=Limits(64, reads_text=False))
    indexed.work = lambda *_: Work((), refusal="no document has an indexed_ref")  # type: ignore[method-assign]
    parts = rig(ScriptedReranker(), indexed, profiles=[profile(scripted=arm_data(gain=-0.1))])
    answer = await answered(parts, asked("red", "blue"))
    assert answer.outcome.degradations == ()
