"""Kept pair scores: what is not computed again, and what must never be taken for something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from router.arms import Work
from sidecar.rerankers.base import BackendError, BadOutputError, Document, Identity, Scored, ScoreRequest
from sidecar.rerankers.kept_scores import BYTES_PER_SCORE, KeptScores
from tests.helpers import Clock, ScriptedReranker
from tests.rerankers.kept_cases import ROOMY, TTL_S, kept
from tests.rerankers.local_models import QUERY, TINY_CROSS_ENCODER, cross_encoder, document, documents, ready, score


class Counting(ScriptedReranker):
    """A scripted reranker that charges for the query as well, and may answer something prepared for any documents."""

    def work(self, request: ScoreRequest) -> Work:
        return replace(super().work(request), fixed_tokens=7, micro_usd_per_token=2.0)

    @property
    def asked_for(self) -> list[list[str]]:
        """The texts of every call."""
        return [[each.text for each in call.documents] for call in self.calls]


def texts(*words: str) -> list[Document]:
    return [document(word) for word in words]


async def test_only_what_is_missing_is_computed() -> None:
    """Of five candidates three are kept: two go to the model, and the scores are in the candidates' order."""
    inner = Counting()
    reranker = kept(inner)
    await score(reranker, texts("read", "a csv", "nothing"))
    scored = await score(reranker, texts("nothing", "csv file read", "a csv", "file", "read"))
    assert inner.asked_for == [["read", "a csv", "nothing"], ["csv file read", "file"]]
    assert scored.scores == (0.0, 3.0, 2.0, 1.0, 1.0)
    assert (scored.cached, scored.tokens) == (3, 20)


async def test_what_is_all_kept_calls_nothing() -> None:
    """Zero model calls: no tokens, no time, no price; the scores are the same."""
    inner = Counting()
    inner.script = [Scored((0.5, 1.5), tokens=9, compute_ms=3.0, micro_usd=11.0)]
    reranker = kept(inner)
    first = await score(reranker, texts("a", "b"))
    again = await score(reranker, texts("b", "a"))
    assert (first.scores, first.micro_usd) == ((0.5, 1.5), 11.0)
    assert again == Scored((1.5, 0.5), tokens=0, cached=2)
    assert len(inner.calls) == 1


async def test_a_document_that_occurs_twice_is_computed_once() -> None:
    """Its score stands at each of its places; the second one needed no model run."""
    inner = Counting()
    scored = await score(kept(inner), texts("csv", "file read", "csv"))
    assert inner.asked_for == [["csv", "file read"]]
    assert (scored.scores, scored.cached) == ((1.0, 2.0, 1.0), 1)


async def test_work_is_what_is_left() -> None:
    """Kept pairs are warm and cost nothing; what is paid once is paid only while a pair is left."""
    reranker = kept(Counting())
    mixed = texts("read", "new", "csv")
    assert reranker.work(ScoreRequest(QUERY, "", mixed)) == Work((10, 10, 10), fixed_tokens=7, micro_usd_per_token=2.0)
    await score(reranker, texts("read", "csv"))
    assert reranker.work(ScoreRequest(QUERY, "", mixed)) == Work(
        (0, 10, 0), fixed_tokens=7, micro_usd_per_token=2.0, warm=2
    )
    assert reranker.work(ScoreRequest(QUERY, "", mixed[::2])) == Work((0, 0), warm=2)


async def test_without_the_cache_everything_is_left() -> None:
    """Work that may not use what is kept is all of the work of the reranker inside."""
    reranker = kept(Counting())
    await score(reranker, texts("read", "csv"))
    asked = ScoreRequest(QUERY, "", texts("read", "csv"), use_cache=False)
    assert reranker.work(asked) == Work((10, 10), fixed_tokens=7, micro_usd_per_token=2.0)


async def test_a_refusal_is_passed_on() -> None:
    """What the reranker inside can't score at all is refused, also when other candidates' scores are kept."""

    class Refusing(Counting):
        def work(self, request: ScoreRequest) -> Work:
            return Work((), refusal="no")

    reranker = kept(Refusing())
    await score(reranker, texts("a"))
    assert reranker.work(ScoreRequest(QUERY, "", texts("a", "b"))).refusal == "no"


@pytest.mark.parametrize("change", ["query", "instruction", "revision", "tenant"])
async def test_nothing_else_hits(change: str) -> None:
    """Invariant 9: another query, instruction, model revision or tenant (which is in the digest) computes anew; turned
    back, the kept scores are found again."""
    inner = Counting()
    reranker = kept(inner)
    asked = ScoreRequest(QUERY, "", texts("a", "b"))
    await reranker.score(asked, 1.0)
    was, other = inner.identity, asked
    match change:
        case "query":
            other = replace(asked, query=QUERY + "?")
        case "instruction":
            other = replace(asked, instruction="prefer recent ones")
        case "tenant":
            other = replace(asked, documents=[replace(each, digest=each.digest[::-1]) for each in asked.documents])
        case "revision":
            inner.identity = Identity(was.name, was.strategy, "revision-2")
    assert (await reranker.score(other, 1.0)).cached == 0
    assert reranker.work(other).warm == 2, "it must be kept itself"
    inner.identity = was
    assert (await reranker.score(asked, 1.0)).cached == 2


async def test_neighbouring_fields_do_not_run_together() -> None:
    """('ab', 'c') and ('a', 'bc') are different questions."""
    reranker = kept(Counting())
    await reranker.score(ScoreRequest("ab", "c", texts("x")), 1.0)
    assert reranker.work(ScoreRequest("a", "bc", texts("x"))).warm == 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
async def test_scores_that_are_not_finite_are_not_kept(wrong: float) -> None:
    """Nor are their neighbours'. They are passed on: what they mean for the arm is decided above (invariant 4)."""
    inner = Counting()
    inner.script = [Scored((1.0, wrong), tokens=2)]
    reranker = kept(inner)
    assert (await score(reranker, texts("a", "b"))).scores[0] == 1.0
    assert reranker.work(ScoreRequest(QUERY, "", texts("a", "b"))).warm == 0


@pytest.mark.parametrize("scores", [(1.0,), (1.0, 2.0, 3.0)])
async def test_too_few_or_too_many_scores_are_an_error(scores: tuple[float, ...]) -> None:
    """They can't be merged; the price is not lost and nothing is kept."""
    inner = Counting()
    inner.script = [Scored(scores, tokens=2, micro_usd=5.0)]
    reranker = kept(inner)
    with pytest.raises(BadOutputError, match="for 2 documents") as caught:
        await score(reranker, texts("a", "b"))
    assert caught.value.micro_usd == 5.0
    assert reranker.kept_pairs == 0


async def test_candidates_that_were_left_out_are_not_kept() -> None:
    """A pointwise LLM that ran out of time: positions and words are those of the whole chunk, and only real scores
    stay."""
    inner = Counting()
    reranker = kept(inner)
    await score(reranker, texts("kept"))
    inner.script = [Scored((4.0, 0.0), tokens=5, unscored=frozenset({1}), shortfall="1 of 2")]
    scored = await score(reranker, texts("late", "kept", "new", "late"))
    assert (scored.unscored, scored.shortfall) == ({2}, "1 of 2")
    assert (scored.scores[0], scored.scores[3], scored.cached) == (4.0, 4.0, 2)
    assert reranker.work(ScoreRequest(QUERY, "", texts("late", "kept", "new"))).tokens == (0, 0, 10)


async def test_a_request_that_wants_no_kept_scores() -> None:
    """Without ``use_cache`` nothing is looked up and nothing is kept."""
    inner = Counting()
    reranker = kept(inner)
    asked = ScoreRequest(QUERY, "", texts("a", "b"), use_cache=False)
    for _ in range(2):
        assert (await reranker.score(asked, 1.0)).cached == 0
    assert (len(inner.calls), reranker.kept_pairs) == (2, 0)


async def test_failures_are_not_kept() -> None:
    """An error reaches the caller as it is, and the next call tries again."""
    inner = Counting()
    inner.script = [BackendError("down")]
    reranker = kept(inner)
    with pytest.raises(BackendError, match="down"):
        await score(reranker, texts("csv"))
    assert (await score(reranker, texts("csv"))).scores == (1.0,)


async def test_memory_is_bounded() -> None:
    """Invariant 10: the least recently used leave; a bound below one score, or of 0, keeps none and still scores."""
    reranker = kept(Counting(), max_bytes=3 * BYTES_PER_SCORE)
    await score(reranker, texts("a", "b", "c"))
    await score(reranker, texts("a"))
    await score(reranker, texts("d"))
    assert reranker.work(ScoreRequest(QUERY, "", texts("a", "b", "c", "d"))).tokens == (0, 10, 0, 0)
    for few in (0, BYTES_PER_SCORE - 1):
        none = kept(Counting(), max_bytes=few)
        assert (await score(none, texts("csv"))).scores == (1.0,)
        assert none.kept_pairs == 0


async def test_scores_end() -> None:
    """After its time a score is gone: what a hosted model's name stands for may have changed."""
    clock = Clock()
    reranker = kept(Counting(), clock=clock)
    await score(reranker, texts("a"))
    clock.pass_ms((TTL_S - 1) * 1e3)
    assert reranker.work(ScoreRequest(QUERY, "", texts("a"))).warm == 1
    clock.pass_ms(2_000)
    assert reranker.work(ScoreRequest(QUERY, "", texts("a"))).warm == 0
    assert (await score(reranker, texts("a"))).cached == 0


async def test_a_cancelled_caller_cancels_the_call() -> None:
    """Invariant 6: nothing goes on behind a caller that has left."""
    inner = Counting()
    inner.gate = asyncio.Event()
    caller = asyncio.create_task(score(kept(inner), texts("a")))
    await inner.entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert inner.cancelled == 1


async def test_everything_else_is_the_reranker_inside() -> None:
    """Name, limits, state and what it is told of; and it is true as any reranker is, also with nothing kept."""
    inner = Counting("inside")
    reranker = kept(inner)
    assert reranker
    assert (reranker.identity, reranker.limits) == (inner.identity, inner.limits)
    assert reranker.availability() is inner.state
    reranker.remember(texts("a"))
    assert len(inner.remembered) == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[KeptScores]:
    """The embedded cross-encoder with kept scores, loaded once."""
    reranker = KeptScores(cross_encoder("ce", TINY_CROSS_ENCODER), ROOMY, TTL_S)
    await ready(reranker)
    yield reranker
    await reranker.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_kept_scores_are_the_models(model: KeptScores) -> None:
    """A list that is partly kept scores as it does without anything kept, to the last bit."""
    texts = documents(30)
    expected = (await model.score(ScoreRequest(QUERY, "", texts, use_cache=False), 60.0)).scores
    await score(model, texts[:10])
    mixed = await score(model, texts)
    assert mixed.scores == expected
    assert mixed.cached == 10
    again = await score(model, texts)
    assert (again.scores, again.tokens, again.cached) == (expected, 0, 30)
