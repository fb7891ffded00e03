"""Rerankers that can't score what was sent: their work says so, and they are left out by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from router_cases import arm_profile, decide, make_profile, make_traits, view

from router.arms import State, Strategy, Work
from router.policy import Reason, RerankerOffError, RerankerView, UnknownCollectionError, Verdict

PROFILE = make_profile(
    {
        "ce": arm_profile(Strategy.CROSS_ENCODER),
        "big": arm_profile(Strategy.CROSS_ENCODER, ((10, 0.2), (100, 0.3))),
    }
)
WHY = "2 of 50 documents have no text {0}"  # the braces are no template


def refusing(name: str, why: str = WHY, **more: Any) -> RerankerView:
    """A reranker that would be taken if it could score these documents."""
    return replace(view(name, **more), work=Work((), refusal=why))


def test_refusal_is_one_line_and_never_chosen() -> None:
    """AUTO: however many candidate counts there are, one CANNOT_SCORE line with the reranker's own words."""
    decision = decide([refusing("ce")], PROFILE)
    (line,) = [one for one in decision.considered if one.reranker == "ce"]
    assert (line.verdict, line.detail) == (Verdict.CANNOT_SCORE, WHY)
    assert (line.p50_ms, line.p95_ms, line.expected_gain, line.micro_usd) == (0.0, 0.0, 0.0, 0)
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.NO_GAIN)


@pytest.mark.parametrize("spendable_ms", [0.0, 1000.0])
def test_refusal_is_not_a_matter_of_time(spendable_ms: float) -> None:
    """More time or money would not help, and the reason does not say that it would."""
    decision = decide([refusing("ce")], PROFILE, spendable_ms=spendable_ms, max_micro_usd=0)
    assert decision.reason is Reason.NO_GAIN


def test_auto_takes_another_one() -> None:
    """The best reranker refuses, a lesser one can: that one is taken."""
    for views in ([refusing("big"), view("ce")], [view("ce"), refusing("big")]):
        decision = decide(views, PROFILE)
        assert (decision.reranker, decision.reason) == ("ce", Reason.BEST_EXPECTED_GAIN)
        assert [one.verdict for one in decision.considered if one.reranker == "big"] == [Verdict.CANNOT_SCORE]


@pytest.mark.parametrize(
    ("changes", "routing", "verdict", "detail"),
    [
        ({"state": State.OFF, "detail": "no key"}, {}, Verdict.OFF, "no key"),
        (
            {},
            {"allowed": frozenset({Strategy.LLM})},
            Verdict.NOT_ALLOWED,
            "the request's routing excludes cross_encoder",
        ),
        ({"state": State.WARMING}, {}, Verdict.CANNOT_SCORE, WHY),
    ],
)
def test_what_comes_before_a_refusal(
    changes: dict[str, Any], routing: dict[str, Any], verdict: Verdict, detail: str
) -> None:
    """What is off or not allowed says that, in one line as well; what is warming up could not score later either."""
    decision = decide([refusing("ce", **changes)], PROFILE, **routing)
    lines = [(one.verdict, one.detail) for one in decision.considered if one.reranker == "ce"]
    assert lines == [(verdict, detail)]


@pytest.mark.parametrize("routing", [{"reranker": "ce"}, {"strategy": Strategy.CROSS_ENCODER}])
@pytest.mark.parametrize("documents", [1, 50])
def test_forced_reranker_that_refuses_is_an_error(routing: dict[str, Any], documents: int) -> None:
    """The caller insists on what can't be done: an error that names the reranker and carries its words."""
    with pytest.raises(RerankerOffError) as caught:
        decide([refusing("ce")], PROFILE, traits=make_traits(documents), **routing)
    assert str(caught.value) == f"reranker 'ce' can't score these documents: {WHY}"


def test_forced_family_goes_around_the_one_that_refuses() -> None:
    """Of two cross-encoders the better one refuses: the usable one runs, and only it is considered."""
    for views in ([refusing("big"), view("ce")], [view("ce"), refusing("big")]):
        decision = decide(views, PROFILE, strategy=Strategy.CROSS_ENCODER)
        assert (decision.reranker, decision.planned_k, decision.reason) == ("ce", 50, Reason.FORCED)
        assert {one.reranker for one in decision.considered} == {"ce"}


def test_forced_family_without_a_usable_one_lists_every_reason() -> None:
    """One is off, the other refuses: the error has both names and both reasons."""
    off = view("big", state=State.OFF, detail="no such file")
    with pytest.raises(RerankerOffError) as caught:
        decide([off, refusing("ce")], PROFILE, strategy=Strategy.CROSS_ENCODER)
    assert str(caught.value) == f"reranker 'big' is off: no such file; reranker 'ce' can't score these documents: {WHY}"


def test_forced_on_an_unknown_collection_is_a_lookup_error() -> None:
    """All that implement the strategy lack what the documents name: not a reranker that is off, but a name that is not
    there. As soon as one refuses for another reason, that reason is the caller's way out."""
    lacking = replace(refusing("ce"), work=Work((), refusal=WHY, unknown=True))
    with pytest.raises(UnknownCollectionError, match="documents have no text"):
        decide([lacking], PROFILE, reranker="ce")
    with pytest.raises(RerankerOffError):
        decide([lacking, refusing("big")], PROFILE, strategy=Strategy.CROSS_ENCODER)
