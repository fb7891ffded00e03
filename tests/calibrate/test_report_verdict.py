"""The verdict in words: each kind from the figures that call for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.calibrate.metrics import Interval
from sidecar.calibrate.report.readout import Added, ArmPoint, Choice, Context, Gain, Recommendation
from sidecar.calibrate.report.verdict import Evidence, judge

HELPS = Gain(0.05, 0.03, 0.07, helped=40, hurt=10)
CHANCE = Gain(0.01, -0.01, 0.03, helped=20, hurt=18)
BEST = Recommendation(1000.0, "warm", (Choice("late", 50, 0.9), Choice("none", 0, 0.1)), 0.55, HELPS, 20.0, 30.0, ())
ADDED = Added(15.0, 20.0, 25.0, 14.0, 16.0, 3000.0, 50)
MODEL = ArmPoint("late", "late_interaction", 50, 0.55, 0.6, HELPS, ADDED, None, 0.0, ())
SIGNALS = ArmPoint("signals", "signals", 50, 0.53, 0.6, HELPS, None, None, 0.0, ())
GOOD = Context(recall50=0.8, precision5=0.3, best_precision5=0.6, ceiling=((10, 0.7), (50, 0.9)))
RERANK = Evidence(
    queries=100,
    none_ndcg10=0.50,
    context=GOOD,
    best=BEST,
    signals=SIGNALS,
    model=MODEL,
    over_signals=Interval(0.02, 0.01, 0.03, 0.01),
)


def test_a_model_that_surely_helps_is_the_fix() -> None:
    """Its reasons name the arm, the gain with its interval, and how many queries it hurt."""
    verdict = judge(RERANK)
    assert (verdict.kind, verdict.headline) == ("rerank", "Reranking is the fix here.")
    assert verdict.reasons[0] == (
        "Within 1000 ms the router takes late@50 for 90 % of the queries and gains +0.050 nDCG@10 (95 % interval "
        "+0.030 to +0.070); it helped 40 queries and hurt 10."
    )
    assert "late@50 differs from fusing the signals without a model by +0.020" in verdict.reasons[1]


def test_signals_that_no_model_surely_beats_are_the_fix() -> None:
    """Fusion takes no time, so a model has to be better beyond chance."""
    verdict = judge(replace(RERANK, over_signals=Interval(0.01, -0.01, 0.03, 0.3)))
    assert verdict.kind == "signals"
    assert "for 15 ms more" in verdict.reasons[1]


def test_answers_that_never_arrive_call_for_better_retrieval() -> None:
    """No sure gain, and most relevant documents are not among the candidates."""
    missed = replace(GOOD, recall50=0.3)
    verdict = judge(replace(RERANK, best=replace(BEST, gain=CHANCE), context=missed))
    assert verdict.kind == "retrieval"
    assert verdict.reasons[0].startswith("Only 30 % of the relevant documents are among the first 50 candidates")


def test_a_gain_despite_low_recall_is_still_a_gain_and_says_what_would_add_more() -> None:
    """Reranking helps, retrieval would help more: both are said."""
    verdict = judge(replace(RERANK, context=replace(GOOD, recall50=0.3)))
    assert verdict.kind == "rerank"
    assert any(reason.startswith("Better retrieval would add more.") for reason in verdict.reasons)


def test_a_first_stage_that_has_it_right_needs_no_reranking() -> None:
    """Perfect order would add less than could be noticed."""
    verdict = judge(replace(RERANK, none_ndcg10=0.88))
    assert verdict.kind == "no_rerank"
    assert verdict.reasons[0] == "Perfect order of its candidates would add only 0.020 nDCG@10 to 0.880."


def test_arms_that_do_not_help_although_there_is_room() -> None:
    """Neither retrieval nor the order is beyond help; these arms are."""
    verdict = judge(replace(RERANK, best=replace(BEST, gain=CHANCE)))
    assert verdict.kind == "no_rerank"
    assert "no more than chance would do" in verdict.reasons[0]


@pytest.mark.parametrize("gain", [HELPS, CHANCE])
def test_few_queries_allow_no_verdict(gain: Gain) -> None:
    """However good the figures look."""
    verdict = judge(replace(RERANK, queries=12, best=replace(BEST, gain=gain)))
    assert verdict.kind == "unclear"
    assert "12 queries were judged" in verdict.reasons[0]
