"""What a reranker leaves out, cuts short or may not lift: the order, the figures and the words of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.messages import Answer, CacheStatus, Completeness, DegradationReason, Overrun, Request, ScoreSource
from sidecar.pipeline import OverrunError, UnavailableError
from sidecar.rerankers.base import BackendError, Limits, RerankerError, Scored
from tests.helpers import Clock, Rig, ScriptedReranker, request, rig

TEXTS = ("blue", "red green", "red", "red green blue", "white")  # in their wished order: 1, 3, 2, 0, 4
FIRST_STAGE = [0, 1, 2, 3, 4]
SCORES = (1.0, 5.0, 2.0, 4.0, 3.0)
WORDS = "3 of 5 calls had ended when time was up"


def asked(**fields: Any) -> Request:
    return request("red green", *TEXTS, **{"budget_ms": 60_000.0, **fields})


def answering(*steps: Scored | BaseException, promotion_cap: int = 0) -> ScriptedReranker:
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=64, promotion_cap=promotion_cap))
    reranker.script = list(steps)
    return reranker


def scored(*unscored: int, **fields: Any) -> Scored:
    """Scores of all five; those of the ``unscored`` are there, and mean nothing."""
    return Scored(**{"scores": SCORES, "tokens": 50, "compute_ms": 1.0, "unscored": frozenset(unscored), **fields})


async def answered(parts: Rig, sent: Request) -> Answer:
    return await parts.pipeline.rerank(sent, None, parts.clock())


def order_of(answer: Answer) -> list[int]:
    return [item.position for item in answer.outcome.ranked]


@pytest.mark.parametrize(
    ("unscored", "order"),
    [
        ((), [1, 3, 4, 2, 0]),
        ((1,), [3, 4, 2, 0, 1]),
        ((0, 3), [1, 4, 2, 0, 3]),
        ((4, 2, 1), [3, 0, 1, 2, 4]),
        ((0, 1, 2, 4), [3, 0, 1, 2, 4]),
    ],
)
async def test_unscored_candidates_stand_behind_the_scored_ones(unscored: tuple[int, ...], order: list[int]) -> None:
    """Invariant 3: in first-stage order and without scores; neither scored_k nor the pairs count them."""
    answer = await answered(rig(answering(scored(*unscored))), asked())
    assert order_of(answer) == order
    bare = [item for item in answer.outcome.ranked if item.source is ScoreSource.FIRST_STAGE]
    assert [item.position for item in bare] == sorted(unscored)
    assert all(item.score is None and item.raw_score is None for item in bare)
    rest = [item for item in answer.outcome.ranked if item.source is ScoreSource.RERANKER]
    assert [item.raw_score for item in rest] == [SCORES[item.position] for item in rest]
    assert answer.outcome.scored_k == answer.outcome.usage.pairs == 5 - len(unscored)


async def test_unscored_candidates_do_not_move_the_scored_ones() -> None:
    """The number that stands in for a missing score takes no part in the fusion: the z-scores are the same with any."""
    fused = set()
    for filler in (0.0, 1e9):
        step = scored(3, 4, scores=(1.0, 5.0, 2.0, filler, filler))
        answer = await answered(rig(answering(step)), asked())
        fused.add(tuple(item.score for item in answer.outcome.ranked))
    assert len(fused) == 1


async def test_unscored_candidates_of_later_chunks_keep_their_positions() -> None:
    """A chunk's positions are its own: the second one of the second chunk of two is candidate 3."""
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=2))
    reranker.script = [Scored((1.0, 2.0), 1), Scored((3.0, 9.0), 1, unscored=frozenset({1})), Scored((4.0,), 1)]
    answer = await answered(rig(reranker), asked())
    assert [len(call.documents) for call in reranker.calls] == [2, 2, 1]
    assert order_of(answer) == [4, 2, 1, 0, 3]


async def test_min_score_leaves_unscored_candidates_in() -> None:
    """A threshold looks at scores: what has none always stays, whatever number stands in for it."""
    answer = await answered(rig(answering(scored(0, 2))), asked(min_score=4.0))
    assert order_of(answer) == [1, 3, 0, 2]


async def test_everything_unscored_is_first_stage_order() -> None:
    """Invariant 3: no candidate has a score, none is counted, and what it cost is told all the same."""
    answer = await answered(rig(answering(scored(*range(5), micro_usd=7.0))), asked(max_micro_usd=100))
    assert order_of(answer) == FIRST_STAGE
    assert {(item.score, item.raw_score, item.source) for item in answer.outcome.ranked} == {
        (None, None, ScoreSource.FIRST_STAGE)
    }
    usage = answer.outcome.usage
    assert (answer.outcome.scored_k, usage.pairs, usage.tokens, usage.micro_usd) == (0, 0, 50, 7)


async def test_shortfall_is_a_partial_answer_with_its_words() -> None:
    """Invariant 5: what the reranker knows better than its caller reaches the answer, as time that ran out."""
    answer = await answered(rig(answering(scored(3, 4, shortfall=WORDS))), asked())
    assert order_of(answer) == [1, 2, 0, 3, 4]
    assert answer.outcome.completeness is Completeness.PARTIAL
    (degradation,) = answer.outcome.degradations
    assert (degradation.reason, degradation.detail) == (DegradationReason.BUDGET_EXHAUSTED, WORDS)
    assert answer.outcome.scored_k == 3


async def test_shortfall_of_everything_is_first_stage_only() -> None:
    """Nothing was finished: first-stage order, with the reason."""
    answer = await answered(rig(answering(scored(*range(5), shortfall=WORDS))), asked())
    assert order_of(answer) == FIRST_STAGE
    assert answer.outcome.completeness is Completeness.FIRST_STAGE_ONLY
    assert [each.detail for each in answer.outcome.degradations] == [WORDS]


@pytest.mark.parametrize(
    ("cause", "reason", "error"),
    [
        (None, DegradationReason.BUDGET_EXHAUSTED, OverrunError),
        (BackendError, DegradationReason.BACKEND_ERROR, UnavailableError),
    ],
)
async def test_shortfall_with_fail_policy(
    cause: type[RerankerError] | None, reason: DegradationReason, error: type[OverrunError | UnavailableError]
) -> None:
    """A lack of time is an overrun; where the reranker names another cause, it is that cause's error."""
    short = scored(3, 4, shortfall=WORDS, shortfall_error=cause)
    with pytest.raises(error, match=WORDS) as caught:
        await answered(rig(answering(short)), asked(overrun=Overrun.FAIL))
    assert caught.value.reason is reason


async def test_shortfall_is_not_kept() -> None:
    """Invariant 9: the next equal request is computed anew, and its complete answer is kept."""
    reranker = answering(scored(3, 4, shortfall=WORDS), scored())
    parts = rig(reranker)
    answers = [await answered(parts, asked()) for _ in range(3)]
    assert [answer.cache for answer in answers] == [CacheStatus.MISS, CacheStatus.MISS, CacheStatus.HIT]
    assert [answer.outcome.scored_k for answer in answers] == [3, 5, 5]
    assert len(reranker.calls) == 2


async def test_shortfall_says_nothing_about_the_whole_stage() -> None:
    """Partial work does not teach what complete work costs: after it the same is predicted as before."""
    clock = Clock()
    reranker = ScriptedReranker(document_ms=3.0, clock=clock)
    reranker.script = [scored(3, 4, shortfall=WORDS)]
    parts = rig(reranker, clock=clock)

    def predicted_ms() -> float:
        return parts.pipeline.explain(asked(use_cache=False), None, clock()).decision.predicted_p50_ms

    before = predicted_ms()
    await answered(parts, asked(use_cache=False))
    assert predicted_ms() == before
    await answered(parts, asked(use_cache=False))  # a complete one does teach
    assert predicted_ms() > before


@pytest.mark.parametrize(("cap", "order"), [(0, [1, 3, 2, 0, 4]), (1, [1, 2, 3, 0, 4]), (4, [1, 3, 2, 0, 4])])
async def test_promotion_cap_holds_for_the_answer(cap: int, order: list[int]) -> None:
    """Candidate 3 is as good as 1, but may rise by one place only; a cap of 0 and one that nobody reaches change
    nothing. Scores stay what they are."""
    answer = await answered(rig(answering(promotion_cap=cap)), asked())
    assert order_of(answer) == order
    assert [item.raw_score for item in answer.outcome.ranked] == [{0: 0, 1: 2, 2: 1, 3: 2, 4: 0}[p] for p in order]


async def test_promotion_cap_counts_places_of_the_whole_list() -> None:
    """The best of the last three, wished first, rises by two from where the first stage put it, and top_n cuts what
    comes of it."""
    best_last = scored(scores=(0.0, 0.0, 0.0, 0.0, 1.0))
    answer = await answered(rig(answering(best_last, promotion_cap=2)), asked())
    assert order_of(answer) == [0, 1, 4, 2, 3]
    cut = await answered(rig(answering(best_last, promotion_cap=2)), asked(top_n=2))
    assert order_of(cut) == [0, 1]


async def test_kept_answer_is_capped_too() -> None:
    """What is kept is the order within the cap."""
    parts = rig(answering(promotion_cap=1))
    orders = [(answer.cache, order_of(answer)) for answer in [await answered(parts, asked()) for _ in range(2)]]
    assert orders == [(CacheStatus.MISS, [1, 2, 3, 0, 4]), (CacheStatus.HIT, [1, 2, 3, 0, 4])]


async def test_failed_call_that_was_charged_is_counted() -> None:
    """First-stage order because the backend failed: the answer tells what that cost."""
    answer = await answered(rig(answering(BackendError("down", micro_usd=12.4))), asked(max_micro_usd=100))
    assert order_of(answer) == FIRST_STAGE
    assert answer.outcome.usage.micro_usd == 12
    assert answer.outcome.usage.pairs == 0


@pytest.mark.parametrize("unscored", [(1,), (0, 1, 2, 3, 4)])
async def test_what_a_model_leaves_out_is_said(unscored: tuple[int, ...]) -> None:
    """Invariant 5: an answer with fewer scores than planned carries a reason, and is not kept (invariant 9)."""
    reranker = answering(scored(*unscored), scored())
    parts = rig(reranker)
    answer = await answered(parts, asked())
    (degradation,) = answer.outcome.degradations
    assert degradation.reason is DegradationReason.INDEX_UNAVAILABLE
    assert f"no score for {len(unscored)} of 5 candidates" in degradation.detail
    assert answer.outcome.completeness is not Completeness.FULL
    assert (await answered(parts, asked())).outcome.completeness is Completeness.FULL


async def test_cached_pairs_are_pairs() -> None:
    """A candidate that the model left out is no pair, whatever the model says of what it had kept."""
    answer = await answered(rig(answering(scored(0, 1, 2, cached=5))), asked())
    assert answer.outcome.usage.cached_pairs == answer.outcome.usage.pairs == 2
