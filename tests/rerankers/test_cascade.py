"""The cascade over rerankers without a model, on a clock that only they move: order, time, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer

from router.arms import Strategy, Work
from router.policy import Routing
from sidecar.messages import Completeness, DegradationReason
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    IndexUnavailableError,
    Limits,
    NotReadyError,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.cascade import CascadeReranker
from tests.helpers import Clock, ScriptedReranker, request, rig
from tests.rerankers.cascade_cases import (
    GENEROUS_S,
    QUERY,
    TEXTS,
    asked,
    cascade,
    deep,
    order_of,
    priors,
    wide,
)
from tests.rerankers.local_models import document


async def test_second_stage_orders_the_best_of_the_first() -> None:
    """The best four by the first stage come first, in the second's order; the rest follow with the first's scores."""
    first, second = wide(), deep()
    scored = await cascade(first, second).score(asked(), GENEROUS_S)
    assert order_of(scored.scores) == [3, 2, 1, 0, 4, 5, 6, 7, 8, 9]
    assert scored.scores[4:] == (4.0, 3.0, 2.0, 1.0, 0.0, 0.0)
    assert max(scored.scores) == 8.0
    assert (scored.shortfall, scored.unscored) == ("", frozenset())
    assert [each.text for call in second.calls for each in call.documents] == list(TEXTS[:4])


async def test_instruction_reaches_both_stages() -> None:
    """Query, instruction and whether kept scores may be used are passed on unchanged."""
    first, second = wide(), deep()
    await cascade(first, second).score(ScoreRequest(QUERY, "prefer recent", [document("a")], False), GENEROUS_S)
    passed_on = {(call.query, call.instruction, call.use_cache) for call in first.calls + second.calls}
    assert passed_on == {(QUERY, "prefer recent", False)}


async def test_no_documents() -> None:
    """An empty list is answered without asking anybody."""
    first, second = wide(), deep()
    reranker = cascade(first, second)
    assert await reranker.score(ScoreRequest(QUERY, "", []), GENEROUS_S) == Scored(scores=(), tokens=0)
    assert first.calls == second.calls == []
    assert reranker.work(ScoreRequest(QUERY, "", [])) == Work(())


async def test_fewer_documents_than_second_k() -> None:
    """Everything is seen twice; a single document keeps a finite score."""
    reranker = cascade(wide(), deep())
    assert order_of((await reranker.score(asked("a", "a b", "a b c"), GENEROUS_S)).scores) == [0, 1, 2]
    assert (await reranker.score(asked("a"), GENEROUS_S)).scores == (1.0 + 1.0,)


async def test_long_lists_are_sent_in_the_stages_own_chunks() -> None:
    """``limits.max_chunk_documents`` of either stage is kept."""
    first, second = wide(limits=Limits(3)), deep(limits=Limits(2))
    await cascade(first, second).score(asked(), GENEROUS_S)
    assert max(len(call.documents) for call in first.calls) <= 3
    assert max(len(call.documents) for call in second.calls) <= 2


async def test_usage_is_summed() -> None:
    """Tokens, price and time of the model are both stages'."""
    first, second = wide(), deep()
    first.script.append(Scored(tuple(range(10)), tokens=100, cached=7, queue_ms=1.0, compute_ms=2.0, micro_usd=3.0))
    first.limits = Limits(64, whole_list=True)
    scored = await cascade(first, second).score(asked(), GENEROUS_S)
    assert (scored.tokens, scored.cached, scored.queue_ms, scored.micro_usd) == (100 + 40, 7, 1.0, 3.0)
    assert scored.compute_ms > 2.0


async def test_second_stage_that_would_be_late_is_not_begun() -> None:
    """10 ms for the first stage leave 15 of 25, of which 2 are spared; the second needs 20: the first's scores, and
    why."""
    clock = Clock()
    first, second = wide(clock), deep(clock)
    scored = await cascade(first, second, clock=clock).score(asked(), 0.025)
    assert scored.scores == (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0)
    assert second.calls == []
    assert scored.shortfall.startswith("both: first stage only; deep would need 2")
    assert scored.shortfall.endswith("for 4 candidates, 13.0 ms are left")
    assert (await cascade(wide(clock), second, clock=clock).score(asked(), 0.060)).shortfall == ""


async def test_second_stage_that_is_cut_short_counts_for_nothing() -> None:
    """Four times as slow as predicted, it gets through a part of its list: the last completed stage answers."""
    clock = Clock()
    second = deep(clock, document_ms=20.0, limits=Limits(1))
    scored = await cascade(wide(clock), second, clock=clock).score(asked(), 0.050)
    assert 0 < len(second.calls) < 4
    assert order_of(scored.scores) == list(range(10))
    assert scored.unscored == frozenset()
    assert scored.shortfall.startswith("both: first stage only; ")
    assert "of 4 candidates scored" in scored.shortfall


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BackendError("broken"), BackendError),
        (BadOutputError("nonsense"), BadOutputError),
        (NotReadyError("loading"), NotReadyError),
        (CircuitOpenError("5 failures"), CircuitOpenError),
        (IndexUnavailableError("gone"), IndexUnavailableError),
        (TimeoutError(), None),
        (Scored((1.0, 2.0, 3.0, 4.0), tokens=1, unscored=frozenset({1})), BadOutputError),
    ],
)
async def test_second_stage_that_fails_leaves_the_first(
    error: BaseException | Scored, kind: type[RerankerError] | None
) -> None:
    """Whatever it fails with, the first stage's order is answered, and the shortfall says why: in words and as an
    error, or, where it was time, as none."""
    second = deep(limits=Limits(4, whole_list=True))
    second.script.append(error)
    scored = await cascade(wide(), second).score(asked(), GENEROUS_S)
    assert order_of(scored.scores) == list(range(10))
    assert scored.unscored == frozenset()
    assert scored.shortfall.startswith("both: first stage only; ")
    if isinstance(error, RerankerError):
        assert str(error) in scored.shortfall
    assert scored.shortfall_error is kind


async def test_second_stage_that_hangs_leaves_time_to_answer() -> None:
    """It is granted 95 % of what the first stage has left, so that the first's scores are not late as well."""
    granted: list[float] = []

    class Hanging(ScriptedReranker):
        async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
            granted.append(timeout_s)
            raise TimeoutError

    clock = Clock()
    scored = await cascade(wide(clock), Hanging("deep"), clock=clock).score(asked(), 1.010)
    assert granted == [pytest.approx(0.950)]
    assert order_of(scored.scores) == list(range(10))


async def test_what_a_failed_second_stage_costs_is_paid() -> None:
    """Its price is in the answer, though its scores are not."""
    second = deep()
    second.script.append(BadOutputError("nonsense", micro_usd=7.0))
    assert (await cascade(wide(), second).score(asked(), GENEROUS_S)).micro_usd == 7.0


async def test_first_stage_that_is_cut_short_answers_with_what_it_has() -> None:
    """Its scored prefix stands, the others are unscored, and the second stage is not asked."""
    clock = Clock()
    first, second = wide(clock, limits=Limits(2)), deep(clock)
    scored = await cascade(first, second, clock=clock).score(asked(), 0.005)
    assert scored.scores[:4] == (8.0, 7.0, 6.0, 5.0)
    assert scored.unscored == frozenset(range(4, 10))
    assert scored.shortfall.startswith("both: part of the first stage only; 4 of 10 candidates scored")
    assert second.calls == []


@pytest.mark.parametrize("kind", [BackendError, BadOutputError, NotReadyError, CircuitOpenError, IndexUnavailableError])
async def test_first_stage_that_fails(kind: type[RerankerError]) -> None:
    """Its error is the cascade's, with its price."""
    first = wide()
    first.script.append(kind("why", micro_usd=5.0))
    with pytest.raises(kind, match="both: why") as caught:
        await cascade(first, deep()).score(asked(), GENEROUS_S)
    assert caught.value.micro_usd == 5.0


async def test_first_stage_that_hangs() -> None:
    """Its timeout is the cascade's."""
    first = wide()
    first.script.append(TimeoutError())
    with pytest.raises(TimeoutError, match="both: wide did not answer"):
        await cascade(first, deep()).score(asked(), GENEROUS_S)


async def test_no_time() -> None:
    """No time at all is a TimeoutError; too little for one candidate leaves all of them unscored, and says so."""
    first = wide()
    reranker = cascade(first, deep())
    with pytest.raises(TimeoutError):
        await reranker.score(asked(), 0.0)
    scored = await reranker.score(asked(), 1e-5)
    assert scored.unscored == frozenset(range(10))
    assert "0 of 10 candidates scored" in scored.shortfall
    assert first.calls == []


async def test_cancelling_stops_the_stage_that_runs() -> None:
    """A caller who leaves during the second stage cancels its call, and no further one begins."""
    second = deep(limits=Limits(1))
    second.gate = asyncio.Event()
    call = asyncio.create_task(cascade(wide(), second).score(asked(), GENEROUS_S))
    await second.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (second.cancelled, len(second.calls)) == (1, 1)


async def test_a_span_for_each_stage() -> None:
    """Under the caller's span, one ``score`` for each chunk, with the stage's name, and no text."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    tracer = tracers.get_tracer("tests")
    with tracer.start_as_current_span("score") as parent:
        await cascade(wide(limits=Limits(64)), deep(), tracer=tracer, known=priors(0.1, 0.1)).score(asked(), GENEROUS_S)
    stages: list[tuple[str, Mapping[str, Any]]] = [
        (span.name, span.attributes or {})
        for span in spans.get_finished_spans()
        if span.parent is not None and span.parent.span_id == parent.get_span_context().span_id
    ]
    assert [(name, attributes["millirank.reranker"]) for name, attributes in stages] == [
        ("score", "wide"),
        ("score", "deep"),
    ]
    assert [attributes["millirank.chunk.documents"] for _, attributes in stages] == [10, 4]


async def test_an_arm_like_any_other() -> None:
    """In the pipeline, forced: FULL with the second stage; with less time PARTIAL, BUDGET_EXHAUSTED and the first
    stage's order. A partial answer is not kept: the next one with time is FULL again."""
    clock = Clock()
    first, second = wide(clock), deep(clock)
    reranker = cascade(first, second, clock=clock, known=priors())
    parts = rig(first, second, reranker, profiles=[priors()], clock=clock)  # type: ignore[arg-type]
    for budget_ms, completeness, order in (
        (25.0, Completeness.PARTIAL, list(range(10))),
        (1_000.0, Completeness.FULL, [3, 2, 1, 0, 4, 5, 6, 7, 8, 9]),
    ):
        sent = request(QUERY, *TEXTS, budget_ms=budget_ms, routing=Routing(strategy=Strategy.CASCADE, rerank_k=10))
        outcome = (await parts.pipeline.rerank(sent, None, clock.now)).outcome
        assert outcome.completeness is completeness
        assert [ranked.position for ranked in outcome.ranked] == order
        assert outcome.scored_k == 10
        reasons = [degradation.reason for degradation in outcome.degradations]
        assert reasons == ([DegradationReason.BUDGET_EXHAUSTED] if completeness is Completeness.PARTIAL else [])


async def test_a_failing_second_stage_is_named() -> None:
    """In the pipeline: PARTIAL with the second stage's own reason, in the first stage's order."""
    first, second = wide(), deep()
    second.script.append(CircuitOpenError("5 failures in a row"))
    reranker = CascadeReranker("both", first, second, 4, profile=priors(), tracer=NoOpTracer())
    parts = rig(first, second, reranker, profiles=[priors()])  # type: ignore[arg-type]
    sent = request(QUERY, *TEXTS, budget_ms=60_000.0, routing=Routing(strategy=Strategy.CASCADE, rerank_k=10))
    outcome = (await parts.pipeline.rerank(sent, None, parts.clock())).outcome
    assert outcome.completeness is Completeness.PARTIAL
    assert [each.reason for each in outcome.degradations] == [DegradationReason.CIRCUIT_OPEN]
    assert [ranked.position for ranked in outcome.ranked] == list(range(10))
