"""The caller names a strategy or a reranker."""

from __future__ import annotations

from typing import Any

import pytest
from router_cases import arm_profile, decide, make_profile, make_traits, view

from router.arms import State, Strategy
from router.policy import Reason, RerankerOffError, UnknownRerankerError, Verdict

PROFILE = make_profile(
    {
        "ce": arm_profile(Strategy.CROSS_ENCODER),
        "big": arm_profile(Strategy.CROSS_ENCODER, ((10, 0.2), (100, 0.3))),
        "li": arm_profile(Strategy.LATE_INTERACTION),
    }
)
CE = view("ce")  # p50 = k ms, p95 = 1.5 k ms
LI = view("li", Strategy.LATE_INTERACTION)


@pytest.mark.parametrize(
    ("spendable_ms", "rerank_k", "planned_k"),
    [(1000.0, 0, 50), (40.0, 0, 25), (1.0, 0, 10), (1.0, 30, 30), (1000.0, 80, 50)],
)
def test_planned_k(spendable_ms: float, rerank_k: int, planned_k: int) -> None:
    """The caller's k, cut to the 50 documents; else the largest that fits; else the smallest, to get somewhere."""
    decision = decide([LI, CE], PROFILE, spendable_ms=spendable_ms, strategy=Strategy.CROSS_ENCODER, rerank_k=rerank_k)
    assert (decision.reranker, decision.planned_k, decision.reason) == ("ce", planned_k, Reason.FORCED)
    assert {one.reranker for one in decision.considered} == {"ce"}
    assert all(one.detail for one in decision.considered)


def test_calibration_and_threshold_do_not_matter() -> None:
    """What the caller insists on runs, even where the profile knows nothing of it; the detail says so."""
    decision = decide([view("new", Strategy.LLM)], PROFILE, reranker="new")
    assert (decision.strategy, decision.planned_k, decision.expected_gain) == (Strategy.LLM, 50, 0.0)
    assert "not calibrated for signals 'bm25'" in decision.considered[-1].detail


@pytest.mark.parametrize("state", [State.WARMING, State.CIRCUIT_OPEN])
def test_not_ready_is_still_taken(state: State) -> None:
    """The pipeline answers with the degradation; the state's words are in the detail."""
    decision = decide([view("ce", state=state, detail="loading model")], PROFILE, reranker="ce")
    assert (decision.strategy, decision.reason) == (Strategy.CROSS_ENCODER, Reason.FORCED)
    (chosen,) = [one for one in decision.considered if one.verdict is Verdict.CHOSEN]
    assert chosen.detail == "forced: loading model"


def test_several_rerankers_best_gain_first() -> None:
    """Of two cross-encoders the one with the higher expected gain; on a tie the name; one that is not ready last."""

    def forced(*views: Any) -> str:
        return decide(list(views), PROFILE, strategy=Strategy.CROSS_ENCODER).reranker

    assert forced(CE, view("big")) == "big"
    assert forced(view("x"), view("w")) == "w"
    assert forced(CE, view("big", state=State.WARMING)) == "ce"
    assert forced(CE, view("big", state=State.OFF)) == "ce"


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ({"reranker": "bge"}, r"no reranker is named 'bge'; configured: li \(late_interaction\), ce \(cross_encoder\)"),
        ({"strategy": Strategy.LLM}, r"no reranker implements 'llm'; configured: li"),
        ({"strategy": Strategy.LLM, "reranker": "ce"}, r"'ce' implements 'cross_encoder', not 'llm'"),
        ({"strategy": Strategy.NONE, "reranker": "ce"}, r"strategy 'none' uses no reranker"),
    ],
)
def test_unknown(routing: dict[str, Any], message: str) -> None:
    """What is not there is an error that lists what is, also when there is nothing to rerank."""
    for documents in (0, 50):
        with pytest.raises(UnknownRerankerError, match=message):
            decide([LI, CE], PROFILE, traits=make_traits(documents), **routing)


def test_off() -> None:
    """A reranker that is switched off is an error that carries the reason."""
    off = view("ce", state=State.OFF, detail="model.onnx: digest does not match")
    with pytest.raises(RerankerOffError, match=r"'ce' is off: model\.onnx: digest does not match"):
        decide([off], PROFILE, strategy=Strategy.CROSS_ENCODER)


def test_money_is_a_hard_limit() -> None:
    """k is lowered until the price fits (10 tokens each at 1 micro-USD); if none does, nothing is bought."""
    paid = view("llm", Strategy.LLM, price=1.0)
    assert decide([paid], PROFILE, strategy=Strategy.LLM, max_micro_usd=300).planned_k == 25
    broke = decide([paid], PROFILE, strategy=Strategy.LLM, max_micro_usd=50)
    assert (broke.strategy, broke.reason) == (Strategy.NONE, Reason.BUDGET_TOO_SMALL)
    assert [one.verdict for one in broke.considered] == [Verdict.CHOSEN] + [Verdict.OVER_COST] * 3


def test_none_and_signals() -> None:
    """Both need no model: NONE plans nothing, SIGNALS all candidates or the caller's k."""
    none = decide([CE], PROFILE, strategy=Strategy.NONE)
    assert (none.strategy, none.planned_k, none.reason) == (Strategy.NONE, 0, Reason.FORCED)
    signals = decide([CE], PROFILE, strategy=Strategy.SIGNALS)
    assert (signals.strategy, signals.planned_k, signals.reason) == (Strategy.SIGNALS, 50, Reason.FORCED)
    assert decide([CE], PROFILE, strategy=Strategy.SIGNALS, rerank_k=20).planned_k == 20


@pytest.mark.parametrize(
    ("documents", "strategy", "reason"),
    [
        (0, Strategy.NONE, Reason.NOTHING_TO_DO),
        (1, Strategy.CROSS_ENCODER, Reason.FORCED),
    ],
)
def test_short_lists(documents: int, strategy: Strategy, reason: Reason) -> None:
    """A single document is scored if the caller insists (its raw score may be what is wanted); none cannot be."""
    decision = decide([CE], PROFILE, traits=make_traits(documents), reranker="ce")
    assert (decision.strategy, decision.planned_k, decision.reason) == (strategy, documents, reason)
