"""Whole requests through planner and pipeline: what is decided, carried out and returned."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from router.arms import Availability, State, Strategy
from router.policy import Reason, RerankerOffError, Routing, UnknownRerankerError, Verdict
from sidecar.logs import JsonFormatter
from sidecar.messages import Answer, Completeness, Request, ScoreSource
from sidecar.rerankers.base import Limits
from sidecar.settings import Mode, Settings
from tests.helpers import MARKER, Clock, Rig, ScriptedReranker, arm_data, profile, request, rig

TEXTS = ("blue", "red green", "red", "red green blue", "white")
FIRST_STAGE = [0, 1, 2, 3, 4]


def asked(**fields: Any) -> Request:
    return request("red green", *TEXTS, **fields)


async def answered(parts: Rig, sent: Request, deadline_left_ms: float | None = None) -> Answer:
    return await parts.pipeline.rerank(sent, deadline_left_ms, parts.clock())


def order_of(answer: Answer) -> list[int]:
    return [item.position for item in answer.outcome.ranked]


async def test_auto_takes_the_arm_that_helps() -> None:
    """With time to spare the calibrated arm scores everything; ties keep first-stage order (invariant 4)."""
    answer = await answered(rig(ScriptedReranker()), asked())
    assert order_of(answer) == [1, 3, 2, 0, 4]
    decision = answer.explanation.decision
    assert (decision.reason, decision.reranker) == (Reason.BEST_EXPECTED_GAIN, "scripted")
    assert answer.outcome.completeness is Completeness.FULL
    assert answer.outcome.degradations == ()


async def test_same_request_has_the_same_order_every_time() -> None:
    """Invariant 4: same input, model and coverage give the same order, computed anew each time."""
    parts = rig(ScriptedReranker())
    orders = {tuple(order_of(await answered(parts, asked(use_cache=False)))) for _ in range(20)}
    assert len(orders) == 1


async def test_signals_take_part_in_the_order() -> None:
    """The score is the sum of z-scores; raw_score stays the model's own."""
    signals = [{"bm25": value} for value in (9.0, 1.0, 1.0, 1.0, 1.0)]
    answer = await answered(rig(ScriptedReranker()), asked(signals=signals))
    first = answer.outcome.ranked[0]
    # z(bm25) of candidate 0 is +2 where the others have -0.5; z(raw) is -0.94 for 0 and +1.4 for the best.
    assert (first.position, first.raw_score) == (0, 0.0)
    assert answer.explanation.decision.signal_set == "bm25"


async def test_fewer_than_two_documents_leave_nothing_to_do() -> None:
    """No and one candidate: OK, as they came, no degradation, also with a forced arm."""
    parts = rig(ScriptedReranker())
    for sent in (request("q"), request("q", "only"), request("q", routing=Routing(Strategy.CROSS_ENCODER))):
        answer = await answered(parts, sent)
        assert order_of(answer) == list(range(len(sent.candidates)))
        assert answer.explanation.decision.reason is Reason.NOTHING_TO_DO
        assert answer.outcome.degradations == ()


async def test_equal_ids_are_told_apart_by_position() -> None:
    """Ids may repeat: every candidate comes back once, under its own position."""
    sent = asked()
    same = tuple(each.__class__("same", each.text, each.signals) for each in sent.candidates)
    answer = await answered(rig(ScriptedReranker()), request("red green", *TEXTS, candidates=same))
    assert sorted(order_of(answer)) == FIRST_STAGE


async def test_no_budget_means_the_default() -> None:
    """Without a budget 100 ms count, less the reserve; a shorter deadline wins."""
    parts = rig(ScriptedReranker())
    assert parts.pipeline.explain(asked(), None, parts.clock()).spendable_ms == 98.0
    assert parts.pipeline.explain(asked(), 50.0, parts.clock()).spendable_ms == 48.0
    assert parts.pipeline.explain(asked(), 5000.0, parts.clock()).spendable_ms == 98.0


async def test_the_smaller_of_budget_and_deadline_counts() -> None:
    """A budget above the deadline is cut to it, and the other way round."""
    parts = rig(ScriptedReranker())
    assert parts.pipeline.explain(asked(budget_ms=500.0), 40.0, parts.clock()).spendable_ms == 38.0
    assert parts.pipeline.explain(asked(budget_ms=30.0), 40.0, parts.clock()).spendable_ms == 28.0


@pytest.mark.parametrize(
    ("deadline_ms", "spendable_ms"),
    [
        (151.0, 98.0),  # read at once
        (131.0, 78.0),  # read after 20 ms
        (180.0, 98.0),  # gRPC rounds deadlines up; never more than the budget
        (40.0, 0.0),  # the budget ended 11 ms ago, though the deadline has not
        (None, 98.0),  # a caller without a deadline
    ],
)
async def test_the_way_here_counts_where_the_deadline_tells_it(deadline_ms: float | None, spendable_ms: float) -> None:
    """100 ms, and a deadline 51 ms after them: what was spent before the request was read, less the reserve of 2 ms."""
    parts = rig(ScriptedReranker())
    sent = asked(budget_ms=100.0, deadline_slack_ms=51.0)
    assert parts.pipeline.explain(sent, deadline_ms, parts.clock()).spendable_ms == spendable_ms


@pytest.mark.parametrize(("budget_ms", "deadline_ms"), [(0.0, None), (1.0, None), (None, 0.0), (None, -5.0)])
async def test_no_time_is_first_stage_order_that_says_so(budget_ms: float | None, deadline_ms: float | None) -> None:
    """Invariant 5: zero budget, less than the reserve or an expired deadline: OK with BUDGET_TOO_SMALL."""
    reranker = ScriptedReranker()
    answer = await answered(rig(reranker), asked(budget_ms=budget_ms), deadline_ms)
    assert order_of(answer) == FIRST_STAGE
    assert answer.outcome.completeness is Completeness.FIRST_STAGE_ONLY
    assert [each.reason for each in answer.outcome.degradations] == ["budget_too_small"]
    assert reranker.calls == []


async def test_forced_strategies() -> None:
    """NONE keeps the order, SIGNALS fuses without a model, a model strategy runs its reranker."""
    reranker = ScriptedReranker()
    parts = rig(reranker, profiles=[profile(scripted=arm_data(), signals=arm_data("signals"))])
    signals = [{"bm25": float(value)} for value in (1, 5, 3, 4, 2)]
    none = await answered(parts, asked(signals=signals, routing=Routing(Strategy.NONE)))
    fused = await answered(parts, asked(signals=signals, routing=Routing(Strategy.SIGNALS)))
    assert order_of(none) == FIRST_STAGE
    assert order_of(fused) == [1, 3, 2, 4, 0]
    assert {item.source for item in fused.outcome.ranked} == {ScoreSource.SIGNALS}
    assert reranker.calls == []
    modelled = await answered(parts, asked(signals=signals, routing=Routing(Strategy.CROSS_ENCODER)))
    assert modelled.explanation.decision.reason is Reason.FORCED
    assert len(reranker.calls) == 1


async def test_forced_signals_without_calibration_keep_first_stage_order() -> None:
    """A profile that knows nothing of SIGNALS leaves only the ranks to fuse."""
    answer = await answered(rig(ScriptedReranker()), asked(routing=Routing(Strategy.SIGNALS)))
    assert order_of(answer) == FIRST_STAGE
    assert answer.outcome.completeness is Completeness.FULL
    empty = await answered(rig(ScriptedReranker()), request("q", routing=Routing(Strategy.SIGNALS)))
    assert order_of(empty) == []


@pytest.mark.parametrize("strategy", [Strategy.SIGNALS, Strategy.CROSS_ENCODER])
async def test_rerank_k_scores_only_the_top(strategy: Strategy) -> None:
    """Invariant 3: the first three are reordered, the rest follow in first-stage order without scores."""
    parts = rig(ScriptedReranker(), profiles=[profile(scripted=arm_data(), signals=arm_data("signals"))])
    signals = [{"bm25": float(value)} for value in (1, 3, 2, 9, 9)]
    answer = await answered(parts, asked(signals=signals, routing=Routing(strategy, rerank_k=3)))
    assert order_of(answer) == [1, 2, 0, 3, 4]
    assert [item.score is None for item in answer.outcome.ranked] == [False, False, False, True, True]
    assert (answer.explanation.decision.planned_k, answer.outcome.scored_k) == (3, 3)


async def test_rerank_k_beyond_the_documents_means_all() -> None:
    """More than there are is all there are."""
    answer = await answered(rig(ScriptedReranker()), asked(routing=Routing(Strategy.CROSS_ENCODER, rerank_k=1000)))
    assert (answer.explanation.decision.planned_k, answer.outcome.scored_k) == (5, 5)


async def test_whole_list_reranker_with_more_candidates_than_it_takes() -> None:
    """A listwise arm of at most four candidates a call plans and scores four of five in its one call, never an error:
    the fifth stays behind them."""
    reranker = ScriptedReranker(limits=Limits(max_chunk_documents=4, whole_list=True))
    answer = await answered(rig(reranker), asked(routing=Routing(reranker="scripted", rerank_k=5)))
    assert (answer.explanation.decision.planned_k, answer.outcome.scored_k) == (4, 4)
    assert [len(call.documents) for call in reranker.calls] == [4]
    assert order_of(answer)[-1] == 4
    assert answer.outcome.completeness is Completeness.FULL


async def test_unknown_arm_lists_what_there_is() -> None:
    """A forced name or strategy that is not configured is an error that lists the configured ones."""
    parts = rig(ScriptedReranker())
    for routing in (Routing(reranker="nope"), Routing(Strategy.LLM), Routing(Strategy.LLM, "scripted")):
        with pytest.raises(UnknownRerankerError, match=r"configured: scripted \(cross_encoder\)"):
            await answered(parts, asked(routing=routing))


async def test_arm_that_is_off_says_why() -> None:
    """A forced arm that is off is an error with its reason; with no documents just the same."""
    reranker = ScriptedReranker()
    reranker.state = Availability(State.OFF, "base_url is not set")
    for sent in (asked(routing=Routing(reranker="scripted")), request("q", routing=Routing(reranker="scripted"))):
        with pytest.raises(RerankerOffError, match="base_url is not set"):
            await answered(rig(reranker), sent)


async def test_auto_goes_around_an_arm_that_is_off() -> None:
    """AUTO takes what is there, and the arm's verdict has the reason."""
    off = ScriptedReranker("off")
    off.state = Availability(State.OFF, "no key")
    parts = rig(ScriptedReranker(), off, profiles=[profile(scripted=arm_data(gain=0.05), off=arm_data(gain=0.5))])
    answer = await answered(parts, asked())
    decision = answer.explanation.decision
    assert decision.reranker == "scripted"
    assert [(arm.verdict, arm.detail) for arm in decision.considered if arm.reranker == "off"] == [
        (Verdict.OFF, "no key")
    ]
    assert off.calls == []


async def test_allowed_excludes_the_rest() -> None:
    """Only what is allowed is taken; first-stage order always is."""
    reranker = ScriptedReranker()
    answer = await answered(rig(reranker), asked(routing=Routing(allowed=frozenset({Strategy.LLM}))))
    decision = answer.explanation.decision
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.NO_GAIN)
    assert {arm.verdict for arm in decision.considered if arm.reranker} == {Verdict.NOT_ALLOWED}
    assert reranker.calls == []


async def test_top_n_is_a_prefix_of_the_full_order() -> None:
    """Invariant 3: top_n cuts, it does not change; more than there are is all."""
    parts = rig(ScriptedReranker())
    everything = order_of(await answered(parts, asked()))
    for top_n in (1, 3, 5, 99):
        assert order_of(await answered(parts, asked(top_n=top_n))) == everything[:top_n]


async def test_min_score_looks_at_raw_scores_of_scored_documents() -> None:
    """Below the threshold goes, at it stays, and what was not scored always stays; top_n counts what is left."""
    parts = rig(ScriptedReranker())
    routing = Routing(Strategy.CROSS_ENCODER, rerank_k=3)
    answer = await answered(parts, asked(min_score=1.0, routing=routing))
    assert order_of(answer) == [1, 2, 3, 4]
    assert order_of(await answered(parts, asked(min_score=1.0, top_n=3, routing=routing))) == [1, 2, 3]
    assert order_of(await answered(parts, asked(min_score=3.0, routing=routing))) == [3, 4]


async def test_mode_off_computes_nothing() -> None:
    """First-stage order, reason MODE_OFF, no model, no degradation."""
    reranker = ScriptedReranker()
    answer = await answered(rig(reranker, settings=Settings(mode=Mode.OFF)), asked())
    decision = answer.explanation.decision
    assert order_of(answer) == FIRST_STAGE
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.MODE_OFF)
    assert answer.explanation.mode is Mode.OFF
    assert answer.outcome.degradations == ()
    assert reranker.calls == []


async def test_mode_observe_works_behind_the_answer() -> None:
    """First-stage order comes back at once, with the decision; the model runs behind it and is traced."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker, settings=Settings(mode=Mode.OBSERVE))
    answer = await answered(parts, asked(budget_ms=10_000.0))
    assert order_of(answer) == FIRST_STAGE
    assert answer.outcome.completeness is Completeness.FIRST_STAGE_ONLY
    assert answer.explanation.decision.reranker == "scripted"
    await reranker.entered.wait()
    reranker.gate.set()
    while reranker.finished == 0:
        await asyncio.sleep(0)
    await asyncio.gather(*parts.pipeline._observed)
    assert parts.span("score").attributes["millirank.chunk.documents"] == 5


async def test_observed_work_does_not_pile_up() -> None:
    """Invariant 10: behind a thousand answers, only so many are reranked at a time; close ends them."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker, settings=Settings(mode=Mode.OBSERVE))
    for number in range(1000):
        await answered(parts, asked(budget_ms=60_000.0, tenant=str(number)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 1 <= len(reranker.calls) <= 64
    await parts.pipeline.close()
    assert reranker.cancelled == len(reranker.calls)


async def test_failure_behind_an_observed_answer_is_logged_without_words(caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 11: an exception that nobody waits for is logged by type and place."""
    reranker = ScriptedReranker()
    reranker.script = [RuntimeError(MARKER)]
    parts = rig(reranker, settings=Settings(mode=Mode.OBSERVE))
    await answered(parts, asked())
    await reranker.entered.wait()
    await asyncio.gather(*parts.pipeline._observed)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    line = JsonFormatter().format(record)
    assert json.loads(line)["error"].startswith("RuntimeError at ")
    assert json.loads(line)["request_id"] == "r-1"
    assert MARKER not in line


async def test_explain_decides_alike_and_computes_nothing() -> None:
    """What explain says is what rerank does; nothing is scored."""
    reranker = ScriptedReranker()
    parts = rig(reranker, clock=Clock())
    explained = parts.pipeline.explain(asked(), None, parts.clock())
    assert reranker.calls == []
    answer = await answered(parts, asked())
    assert explained.decision == answer.explanation.decision
    assert explained.traits == answer.explanation.traits


async def test_corpus_selects_profile_and_weights() -> None:
    """Each corpus is fused with its own weights, and the answer names the profile that decided."""
    against = arm_data(weights={"bm25": -10.0})
    parts = rig(ScriptedReranker(), profiles=[profile(), profile("odd", scripted=against)])
    signals = [{"bm25": float(value)} for value in (5, 4, 3, 2, 1)]
    usual = await answered(parts, asked(signals=signals))
    odd = await answered(parts, asked(signals=signals, corpus="odd"))
    elsewhere = await answered(parts, asked(signals=signals, corpus="elsewhere"))
    assert order_of(odd) == [4, 3, 2, 1, 0]
    assert order_of(usual) == order_of(elsewhere) != order_of(odd)
    assert [each.explanation.profile_corpus for each in (usual, odd, elsewhere)] == ["default", "odd", "default"]


async def test_rerankers_are_told_of_candidates_after_the_answer() -> None:
    """A reranker may prepare documents that it has seen, but not while the caller waits."""
    reranker = ScriptedReranker()
    answer_time: list[int] = []
    await answered(rig(reranker), asked())
    answer_time.append(len(reranker.remembered))
    while not reranker.remembered:
        await asyncio.sleep(0.001)
    assert answer_time == [0]
    assert [document.text for document in reranker.remembered[0]] == list(TEXTS)
