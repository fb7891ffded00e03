"""AUTO: which arm is chosen, and what is said about the others."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_cases import CURVE, arm_profile, decide, make_profile, make_traits, view

from router.arms import State, Strategy
from router.policy import MAX_HARM, ConsideredArm, Decision, Reason, RerankerView, Verdict
from router.profile import Profile

CE = make_profile({"ce": arm_profile(Strategy.CROSS_ENCODER)})  # p50 = k ms, p95 = 1.5 k ms with `view("ce")`


def arm(decision: Decision, reranker: str, k: int) -> ConsideredArm:
    """The one considered arm of this reranker at this k."""
    (found,) = [one for one in decision.considered if (one.reranker, one.rerank_k) == (reranker, k)]
    return found


def test_walks_up_while_the_gain_pays_for_the_time() -> None:
    """At 1 nDCG per second: 10 ms earn 0.05 (needs .01), 15 more 0.03 (.015), 25 more only 0.02 (.025)."""
    profile = make_profile({"ce": arm_profile(Strategy.CROSS_ENCODER)}, min_gain_per_second=1.0)
    decision = decide([view("ce")], profile)
    assert (decision.strategy, decision.reranker, decision.planned_k) == (Strategy.CROSS_ENCODER, "ce", 25)
    assert decision.reason is Reason.BEST_EXPECTED_GAIN
    assert (decision.predicted_p50_ms, decision.predicted_p95_ms, decision.expected_gain) == (
        25.0,
        pytest.approx(37.5),
        0.08,
    )
    assert decision.signal_set == "bm25"
    best = arm(decision, "ce", 50)
    assert (best.verdict, best.detail) == (
        Verdict.NOT_WORTH_ITS_TIME,
        "adds 0.0200 for 25.0 ms more; has to add 0.0250",
    )
    assert arm(decision, "ce", 10).verdict is Verdict.LOWER_GAIN
    assert arm(decision, "", 0).verdict is Verdict.LOWER_GAIN


@pytest.mark.parametrize(
    ("documents", "rerank_k", "expected"),
    [(30, 0, [10, 25, 30]), (10, 0, [10]), (100, 0, [10, 25, 50, 100]), (300, 0, [10, 25, 50, 100]), (30, 40, [30])],
)
def test_candidate_counts(documents: int, rerank_k: int, expected: list[int]) -> None:
    """The profile's counts below the documents, all of them where that is in range; or what the caller asks for."""
    decision = decide([view("ce")], CE, traits=make_traits(documents), rerank_k=rerank_k)
    assert [one.rerank_k for one in decision.considered if one.reranker == "ce"] == expected


def test_over_budget_counts_the_queue() -> None:
    """p95 of k = 10 is 15 ms; 5 ms of queue make it 20, which does not fit 19.5 but fits 20."""
    busy = view("ce", queue_ms=5.0)
    short = decide([busy], CE, spendable_ms=19.5)
    assert (short.strategy, short.reason) == (Strategy.NONE, Reason.BUDGET_TOO_SMALL)
    assert arm(short, "ce", 10).detail == "p95 20.0 ms > 19.5 ms left"
    enough = decide([busy], CE, spendable_ms=20.0)
    assert (enough.planned_k, enough.predicted_p50_ms, enough.predicted_p95_ms) == (10, 15.0, 20.0)


@pytest.mark.parametrize(
    ("queue_ms", "spendable_ms", "planned"),
    [
        (0.0, 37.0, 10),  # nobody is before it: 10 candidates at p95 15 ms, 25 would take 37.5 ms
        (5.0, 23.9, 10),  # 16 candidates take 24 ms: they would not fit without the queue either
        (5.0, 28.9, 0),  # they would, but not behind 5 ms: nor are 10 scored, which would take 20 ms in all
        (5.0, 29.1, 10),  # 16 fit; the profile's next smaller arm is 10
    ],
)
def test_behind_others_too_few_candidates_are_not_planned(queue_ms: float, spendable_ms: float, planned: int) -> None:
    """Where only the queue keeps 16 candidates from being scored, it is first-stage order instead of 10."""
    decision = decide([view("ce", queue_ms=queue_ms, queued_k=16)], CE, spendable_ms=spendable_ms)
    assert decision.planned_k == planned
    if planned == 0:
        assert decision.reason is Reason.BUDGET_TOO_SMALL
        assert arm(decision, "ce", 10).detail == "fewer than 16 candidates are not worth a place behind others"


def test_a_caller_who_asks_for_few_gets_few_behind_others() -> None:
    """What is too little is measured by what the request could have had: all of 8 documents, or ``rerank_k`` 10."""
    busy = view("ce", queue_ms=5.0, queued_k=16)
    assert decide([busy], CE, spendable_ms=20.0, rerank_k=10).planned_k == 10
    assert decide([busy], CE, spendable_ms=17.0, traits=make_traits(documents=8)).planned_k == 8


def test_over_cost_rounds_up() -> None:
    """100 tokens at 0.0125 micro-USD are 1.25, so 2: over a purse of 1; a purse of 0 buys nothing."""
    llm = view("llm", Strategy.LLM, price=0.0125, assumed_gain=0.1)
    decision = decide([llm], CE, max_micro_usd=1)
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.BUDGET_TOO_SMALL)
    assert (arm(decision, "llm", 10).micro_usd, arm(decision, "llm", 10).detail) == (2, "2 micro-USD > 1 allowed")
    assert decide([llm], CE, max_micro_usd=0).strategy is Strategy.NONE
    assert decide([llm], CE, max_micro_usd=2).planned_k == 10
    assert decide([llm], CE, max_micro_usd=None).strategy is Strategy.LLM


def test_an_uncalibrated_reranker_says_what_to_do() -> None:
    """Without a profile entry it is not taken, unless the operator states a gain; calibration beats the statement."""
    decision = decide([view("llm", Strategy.LLM)], CE)
    assert decision.reason is Reason.NO_GAIN
    assert arm(decision, "llm", 10).verdict is Verdict.NO_GAIN
    assert arm(decision, "llm", 10).detail == (
        "no calibrated gain for signals 'bm25': give it one in a profile, or set expected_gain"
    )
    assumed = decide([view("llm", Strategy.LLM, assumed_gain=0.1)], CE)
    assert (assumed.reranker, assumed.planned_k, assumed.expected_gain) == ("llm", 10, 0.1)
    assert decide([view("ce", assumed_gain=0.9)], CE).expected_gain < 0.2


@pytest.mark.parametrize(("lower", "taken"), [(-MAX_HARM, True), (-MAX_HARM - 1e-6, False)])
def test_an_arm_that_may_hurt_stays_off(lower: float, taken: bool) -> None:
    """The interval's lower end may reach down to -0.01, no further."""
    profile = make_profile({"ce": arm_profile(Strategy.CROSS_ENCODER, ((10, 0.05),), lower)})
    decision = decide([view("ce")], profile)
    assert (decision.strategy is Strategy.CROSS_ENCODER) is taken
    assert taken or (arm(decision, "ce", 10).verdict is Verdict.NO_GAIN and decision.reason is Reason.NO_GAIN)


@pytest.mark.parametrize(
    ("state", "verdict", "reason"),
    [
        (State.WARMING, Verdict.NOT_READY, Reason.NOT_READY),
        (State.CIRCUIT_OPEN, Verdict.CIRCUIT_OPEN, Reason.NOT_READY),
        (State.OFF, Verdict.OFF, Reason.NO_GAIN),
    ],
)
def test_unavailable_rerankers(state: State, verdict: Verdict, reason: Reason) -> None:
    """The state decides the verdict and its words the detail; what is off is not waited for."""
    decision = decide([view("ce", state=state, detail="because")], CE)
    verdicts = {(one.verdict, one.detail) for one in decision.considered if one.reranker == "ce"}
    assert verdicts == {(verdict, "because")}
    assert (decision.strategy, decision.reason) == (Strategy.NONE, reason)


def test_time_comes_before_readiness() -> None:
    """With one arm too slow and another warming, more budget is the better advice."""
    profile = make_profile({"ce": arm_profile(Strategy.CROSS_ENCODER), "li": arm_profile(Strategy.LATE_INTERACTION)})
    slow, warming = view("ce", ms_per_token=9.0), view("li", Strategy.LATE_INTERACTION, state=State.WARMING)
    assert decide([slow, warming], profile, spendable_ms=200.0).reason is Reason.BUDGET_TOO_SMALL


def test_signals_compete_like_any_arm() -> None:
    """SIGNALS scores every candidate for no tokens: it wins where no model fits, and loses to a better one."""
    profile = make_profile(
        {
            "ce": arm_profile(Strategy.CROSS_ENCODER),
            "signals": arm_profile(Strategy.SIGNALS, ((10, 0.01), (50, 0.03))),
        }
    )
    tight = decide([view("ce")], profile, spendable_ms=5.0)
    assert (tight.strategy, tight.planned_k, tight.expected_gain) == (Strategy.SIGNALS, 50, 0.03)
    assert decide([view("ce")], profile).strategy is Strategy.CROSS_ENCODER
    zero = decide([view("ce")], profile, spendable_ms=0.0)
    assert (zero.strategy, zero.reason) == (Strategy.NONE, Reason.BUDGET_TOO_SMALL)
    unknown = decide([view("ce")], profile, traits=make_traits(signals=("recency",)))
    assert Strategy.SIGNALS not in {one.strategy for one in unknown.considered}


def test_allowed_narrows_the_choice_but_never_excludes_none() -> None:
    """Only late interaction is allowed and there is none: first-stage order, and the others are NOT_ALLOWED."""
    profile = make_profile({"ce": arm_profile(Strategy.CROSS_ENCODER), "signals": arm_profile(Strategy.SIGNALS)})
    decision = decide([view("ce")], profile, allowed=frozenset({Strategy.LATE_INTERACTION}))
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.NO_GAIN)
    assert {one.verdict for one in decision.considered[1:]} == {Verdict.NOT_ALLOWED}
    allowed = decide([view("ce")], profile, allowed=frozenset({Strategy.CROSS_ENCODER}))
    assert allowed.strategy is Strategy.CROSS_ENCODER


@pytest.mark.parametrize("documents", [0, 1])
def test_nothing_to_reorder(documents: int) -> None:
    """Fewer than two documents: nothing is considered."""
    decision = decide([view("ce")], CE, traits=make_traits(documents))
    assert (decision.strategy, decision.reason) == (Strategy.NONE, Reason.NOTHING_TO_DO)
    assert decision.considered == ()


NAMES = ["a", "b", "c"]
RERANKERS = st.fixed_dictionaries(
    {
        name: st.tuples(
            st.floats(0.001, 5.0), st.sampled_from(list(State)), st.floats(-0.05, 0.3), st.floats(0.0, 50.0)
        )
        for name in NAMES
    }
)


def fleet(
    drawn: dict[str, tuple[float, State, float, float]], spreads: tuple[float, float, float], rate: float
) -> tuple[list[RerankerView], Profile]:
    """Three rerankers with drawn speed, state, gain and queue."""
    arms = {"signals": arm_profile(Strategy.SIGNALS, ((10, 0.004),))}
    views = []
    for (name, (speed, state, gain, queue_ms)), spread in zip(drawn.items(), spreads, strict=True):
        points = tuple((k, gain * part / CURVE[-1][1]) for k, part in CURVE)
        arms[name] = arm_profile(Strategy.CROSS_ENCODER, points, min(0.0, gain))
        views.append(view(name, ms_per_token=speed, spread=spread, state=state, queue_ms=queue_ms))
    return views, make_profile(arms, min_gain_per_second=rate)


SPREADS = st.tuples(*[st.floats(1.0, 4.0)] * 3)
RATE = st.sampled_from([0.0, 0.1, 2.0])
BUDGET = st.floats(0.0, 2000.0)


@given(RERANKERS, SPREADS, RATE, BUDGET, st.integers(2, 200))
def test_what_always_holds(
    drawn: dict[str, tuple[float, State, float, float]],
    spreads: tuple[float, float, float],
    rate: float,
    budget: float,
    documents: int,
) -> None:
    """p95 of the choice fits; it is READY; one arm is CHOSEN; every arm is explained; same input, same decision."""
    views, profile = fleet(drawn, spreads, rate)
    traits = make_traits(documents)
    decision = decide(views, profile, spendable_ms=budget, traits=traits)
    assert decision.predicted_p95_ms <= budget
    assert decision.reranker == "" or drawn[decision.reranker][1] is State.READY
    chosen = [one for one in decision.considered if one.verdict is Verdict.CHOSEN]
    assert [(one.strategy, one.reranker, one.rerank_k) for one in chosen] == [
        (decision.strategy, decision.reranker, decision.planned_k)
    ]
    assert all(isinstance(one.verdict, Verdict) and one.detail for one in decision.considered)
    assert decision == decide(views, profile, spendable_ms=budget, traits=traits)


@given(RERANKERS, SPREADS, RATE, BUDGET, BUDGET)
def test_a_larger_budget_never_decides_worse(
    drawn: dict[str, tuple[float, State, float, float]],
    spreads: tuple[float, float, float],
    rate: float,
    one: float,
    other: float,
) -> None:
    """gain - min_gain_per_second * p50, which the walk maximises, never falls with a larger budget."""
    views, profile = fleet(drawn, spreads, rate)
    worth = [
        decision.expected_gain - rate * decision.predicted_p50_ms / 1000.0
        for decision in (decide(views, profile, spendable_ms=budget) for budget in sorted((one, other)))
    ]
    assert worth[1] >= worth[0] - 1e-12


@given(RERANKERS, st.floats(1.0, 4.0), RATE, BUDGET, BUDGET)
def test_a_larger_budget_never_lowers_the_expected_gain(
    drawn: dict[str, tuple[float, State, float, float]], spread: float, rate: float, one: float, other: float
) -> None:
    """Where faster in the median also means faster at p95 (one spread for all, no queue)."""
    no_queue = {name: (speed, state, gain, 0.0) for name, (speed, state, gain, _) in drawn.items()}
    views, profile = fleet(no_queue, (spread,) * 3, rate)
    low, high = (decide(views, profile, spendable_ms=budget, signals_ms=0.0) for budget in sorted((one, other)))
    assert high.expected_gain >= low.expected_gain


def test_deciding_takes_well_under_a_millisecond() -> None:
    """Twenty arms over 200 documents; the bound is loose on purpose, so that a busy machine does not fail it."""
    names = [f"m{index}" for index in range(5)]
    profile = make_profile({name: arm_profile(Strategy.CROSS_ENCODER) for name in names})
    views, traits = [view(name) for name in names], make_traits(200)
    fastest = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        decision = decide(views, profile, traits=traits)
        fastest = min(fastest, time.perf_counter() - start)
    assert sum(one.reranker != "" for one in decision.considered) == 20
    assert fastest < 1e-3


def test_a_reranker_that_takes_no_more_than_some_documents_is_never_planned_beyond_them() -> None:
    """max_documents cuts the grid of AUTO and a forced rerank_k alike, and no candidate count appears twice."""
    profile = make_profile({"m": arm_profile(Strategy.LLM)})
    views = [view("m", Strategy.LLM, max_documents=30, whole_list=True)]
    traits = make_traits(80)
    auto = decide(views, profile, spendable_ms=1e6, traits=traits)
    assert [one.rerank_k for one in auto.considered if one.reranker == "m"] == [10, 25, 30]
    forced = decide(views, profile, spendable_ms=1e6, traits=traits, reranker="m", rerank_k=70)
    assert forced.planned_k == 30
