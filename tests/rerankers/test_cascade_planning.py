"""What a cascade says before it scores: cost, price, limits, availability, identity."""

from __future__ import annotations

from typing import Any

import pytest

from router.arms import Availability, State, Strategy, Work
from sidecar.rerankers.base import (
    Limits,
    ScoreRequest,
)
from tests.helpers import Clock, ScriptedReranker
from tests.rerankers.cascade_cases import (
    GENEROUS_S,
    QUERY,
    Priced,
    asked,
    cascade,
    deep,
    priors,
    wide,
)

READY, WARMING = Availability(State.READY), Availability(State.WARMING, "loading")
OPEN, OFF = Availability(State.CIRCUIT_OPEN, "5 failures"), Availability(State.OFF, "no model")


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (READY, READY, READY),
        (READY, WARMING, Availability(State.WARMING, "deep: loading")),
        (OPEN, WARMING, Availability(State.CIRCUIT_OPEN, "wide: 5 failures; deep: loading")),
        (WARMING, OFF, Availability(State.OFF, "wide: loading; deep: no model")),
        (OFF, READY, Availability(State.OFF, "wide: no model")),
    ],
)
def test_availability(first: Availability, second: Availability, both: Availability) -> None:
    """READY only if both are; else the worse of the two, with both reasons."""
    stages = wide(), deep()
    stages[0].state, stages[1].state = first, second
    assert cascade(*stages).availability() == both


def test_identity_changes_with_stages_and_k() -> None:
    """Either stage's revision and ``second_k`` change the revision, also while the cascade exists."""
    first, second = wide(), deep()
    reranker = cascade(first, second)
    revisions = [reranker.identity.revision, cascade(first, second, 5).identity.revision]
    for stage in (first, second):
        stage.identity = type(stage.identity)(stage.identity.name, stage.identity.strategy, "revision-2")
        revisions.append(reranker.identity.revision)
    assert len(set(revisions)) == 4
    assert (reranker.identity.name, reranker.identity.strategy) == ("both", Strategy.CASCADE)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (Limits(64), Limits(8), Limits(1_000, whole_list=True)),
        (Limits(50, whole_list=True), Limits(8), Limits(50, whole_list=True)),
        (Limits(64, reads_text=False), Limits(8), Limits(1_000, whole_list=True)),
        (
            Limits(64, reads_text=False, promotion_cap=9),
            Limits(8, reads_text=False, promotion_cap=5),
            Limits(1_000, whole_list=True, reads_text=False, promotion_cap=5),
        ),
    ],
)
def test_limits(first: Limits, second: Limits, both: Limits) -> None:
    """The whole list; a listwise first stage bounds it; texts are needed if one stage needs them; the stricter cap."""
    assert cascade(wide(limits=first), deep(limits=second)).limits == both


async def test_a_listwise_second_stage_gets_one_list() -> None:
    """``second_k`` is cut to what it takes in its one call."""
    second = deep(limits=Limits(3, whole_list=True))
    await cascade(wide(), second, second_k=8).score(asked(), GENEROUS_S)
    assert [len(call.documents) for call in second.calls] == [3]


@pytest.mark.parametrize(
    ("stages", "second_k", "words"),
    [
        ((wide(), wide()), 4, "first and second are both 'wide'"),
        ((wide(), deep()), 1, "second_k is 1; it must be 2 or more"),
        ((wide(), ScriptedReranker("c", Strategy.CASCADE)), 4, "second is 'c', a cascade itself"),
    ],
)
def test_stages_that_make_no_cascade(stages: Any, second_k: int, words: str) -> None:
    """They are refused by name."""
    with pytest.raises(ValueError, match=f"reranker 'both': {words}"):
        cascade(*stages, second_k)


def test_work_is_microseconds_of_both_stages() -> None:
    """1 ms for each of ten candidates, 5 ms more for the first four, 0.2 ms beside them; about."""
    work = cascade(wide(), deep()).work(asked())
    assert [work.tokens_at(k) for k in (1, 4, 10)] == pytest.approx([6_200, 24_200, 30_200], rel=0.1)


async def test_work_learns_what_the_stages_take() -> None:
    """After twenty calls to stages twice as slow as their priors, the microseconds are those of the clock."""
    clock = Clock()
    reranker = cascade(wide(clock), deep(clock), clock=clock, known=priors(0.5, 2.5))
    for _ in range(20):
        assert (await reranker.score(asked(), GENEROUS_S)).shortfall == ""
    assert reranker.work(asked()).tokens_at(10) == pytest.approx(30_000, rel=0.15)


def test_warm_up_samples_are_both_stages() -> None:
    """What the stages have measured, with predicted microseconds for tokens: their ratio is about 1,000 to 1."""

    class Warmed(ScriptedReranker):
        def warm_up_samples(self) -> list[tuple[int, float]]:
            return [(tokens, tokens * 0.1) for tokens in (50, 100, 200, 400)]

    stages = (Warmed("wide", Strategy.LATE_INTERACTION), Warmed("deep"))
    samples = cascade(*stages).warm_up_samples()
    assert len(samples) == 8
    assert [microseconds / elapsed_ms for microseconds, elapsed_ms in samples] == pytest.approx([1_000] * 8, rel=0.3)


def test_refusals_are_passed_on() -> None:
    """What one stage can't score the cascade can't."""
    first, second = wide(), deep()
    second.work = lambda *_: Work((), refusal="no index has them")  # type: ignore[method-assign]
    assert cascade(first, second).work(asked()) == Work((), refusal="no index has them")


@pytest.mark.parametrize("priced", ["first", "second", "both"])
async def test_no_k_is_promised_cheaper_than_it_is(priced: str) -> None:
    """At every k, whoever is best: tokens times price is at least what both stages would charge."""
    stages: dict[str, ScriptedReranker] = {"first": wide(), "second": deep()}
    for place, strategy in (("first", Strategy.LLM), ("second", Strategy.CROSS_ENCODER)):
        if priced in (place, "both"):
            stages[place] = Priced({"first": "wide", "second": "deep"}[place], strategy)
    first, second = stages["first"], stages["second"]
    documents = asked().documents
    work = cascade(first, second).work(ScoreRequest(QUERY, "", documents))
    for k in range(1, len(documents) + 1):
        own, other = first.work(ScoreRequest("", "", documents[:k])), second.work(ScoreRequest("", "", documents[:k]))
        dearest_four = sum(sorted(other.tokens)[-4:]) + other.fixed_tokens
        price = own.tokens_at(k) * own.micro_usd_per_token + dearest_four * other.micro_usd_per_token
        assert work.tokens_at(k) * work.micro_usd_per_token >= price * (1 - 1e-9)
