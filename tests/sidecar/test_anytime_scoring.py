"""Chunks, the clock, and what becomes of scores when something goes wrong in the middle."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from router.arms import Work
from router.latency import LatencyEstimator, LatencyPrior
from sidecar.chunks import TARGET_CHUNK_MS
from sidecar.messages import DegradationReason
from sidecar.planner import _as_documents
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    IndexUnavailableError,
    Limits,
    NotReadyError,
    RerankerError,
    Scored,
)
from sidecar.scored_prefix import ScoredPrefix
from sidecar.scoring import ScoringJob, score_prefix
from tests.helpers import MARKER, Clock, ScriptedReranker, overlap, request

TEXTS = tuple(f"red {'green ' * (number % 2)}{number}" for number in range(10))


class Stage:
    """One stage on a clock of its own: every document takes 10 ms and is predicted to."""

    def __init__(self, *, limits: Limits = Limits(max_chunk_documents=1), texts: tuple[str, ...] = TEXTS) -> None:  # noqa: B008
        self.clock = Clock()
        self.reranker = ScriptedReranker(limits=limits, document_ms=10.0, tokens_per_document=10, clock=self.clock)
        self.estimator = LatencyEstimator(LatencyPrior(base_ms=0.0, ms_per_token=1.0, spread=1.01))
        self.spans = InMemorySpanExporter()
        self.texts = texts

    async def score(self, budget_ms: float = 10_000.0) -> ScoredPrefix:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        job = ScoringJob(
            query="red green",
            instruction="",
            documents=_as_documents(request("red green", *self.texts)),
            work=Work(tokens=(10,) * len(self.texts)),
            end=self.clock.now + budget_ms / 1e3,
        )
        return await score_prefix(job, self.reranker, self.estimator, provider.get_tracer("t"), self.clock)


async def test_enough_time_scores_everything_in_order() -> None:
    """Every candidate once, in first-stage order, whatever the size of the chunks."""
    for size in (1, 3, 64):
        stage = Stage(limits=Limits(max_chunk_documents=size))
        prefix = await stage.score()
        assert prefix.degradation is None
        assert prefix.scores == tuple(overlap("red green", text) for text in TEXTS)
        sent = [document.text for call in stage.reranker.calls for document in call.documents]
        assert sent == list(TEXTS)
        assert (prefix.usage.pairs, prefix.usage.tokens) == (10, 100)


async def test_no_chunk_starts_that_would_end_late() -> None:
    """Invariant 1: with 35 ms for 10 ms documents, three are scored, the fourth is not begun, and it says so."""
    stage = Stage()
    prefix = await stage.score(budget_ms=35.0)
    assert len(prefix.scores) == 3
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.BUDGET_EXHAUSTED
    assert "3 of 10 candidates scored; 5.0 ms left" in prefix.degradation.detail


async def test_no_time_scores_nothing() -> None:
    """Invariants 3 and 5: not even one document fits, so none is tried; too small is not the same as used up."""
    stage = Stage()
    prefix = await stage.score(budget_ms=5.0)
    assert prefix.scores == ()
    assert stage.reranker.calls == []
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.BUDGET_TOO_SMALL


async def test_chunks_are_about_their_target_length() -> None:
    """A chunk takes as many documents as fit the target time, at least one, and never more than the limit."""
    stage = Stage(limits=Limits(max_chunk_documents=64))
    stage.estimator = LatencyEstimator(LatencyPrior(base_ms=0.0, ms_per_token=TARGET_CHUNK_MS / 40, spread=1.01))
    await stage.score()
    assert len(stage.reranker.calls[0].documents) == 4
    slow = Stage(limits=Limits(max_chunk_documents=64))
    slow.estimator = LatencyEstimator(LatencyPrior(base_ms=0.0, ms_per_token=100.0, spread=1.01))
    await slow.score()
    assert len(slow.reranker.calls[0].documents) == 1


async def test_a_chunk_is_worth_its_call() -> None:
    """Where a call costs 45 ms beside its documents of 10 ms each, four of them go into one: half is work."""
    stage = Stage(limits=Limits(max_chunk_documents=64))
    stage.estimator = LatencyEstimator(LatencyPrior(base_ms=45.0, ms_per_token=1.0, spread=1.01))
    await stage.score()
    assert len(stage.reranker.calls[0].documents) == 4


async def test_whole_list_rerankers_get_everything_at_once() -> None:
    """A listwise LLM is asked once, also where its prediction does not fit: it stops by its own timeout."""
    stage = Stage(limits=Limits(max_chunk_documents=50, whole_list=True))
    prefix = await stage.score(budget_ms=20.0)
    assert len(stage.reranker.calls) == 1
    assert len(prefix.scores) == 10


async def test_whole_list_rerankers_get_no_more_than_they_take() -> None:
    """`max_chunk_documents` bounds every call: a longer list goes in several."""
    stage = Stage(limits=Limits(max_chunk_documents=4, whole_list=True))
    prefix = await stage.score()
    assert [len(call.documents) for call in stage.reranker.calls] == [4, 4, 2]
    assert len(prefix.scores) == 10


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BackendError("down"), DegradationReason.BACKEND_ERROR),
        (NotReadyError("loading"), DegradationReason.NOT_READY),
        (CircuitOpenError("left alone"), DegradationReason.CIRCUIT_OPEN),
        (IndexUnavailableError("no such file"), DegradationReason.INDEX_UNAVAILABLE),
        (RerankerError("other"), DegradationReason.BACKEND_ERROR),
        (TimeoutError(), DegradationReason.BACKEND_TIMEOUT),
    ],
)
async def test_failure_in_the_middle_keeps_the_scored_prefix(error: Exception, reason: DegradationReason) -> None:
    """Invariant 5: two chunks were scored, the third failed: two stay, with the reason on answer and span."""
    stage = Stage()
    stage.reranker.script = [None, None, error]
    prefix = await stage.score()
    assert len(prefix.scores) == 2
    assert prefix.degradation is not None
    assert prefix.degradation.reason is reason
    assert str(error) in prefix.degradation.detail
    assert len(stage.reranker.calls) == 3
    last = stage.spans.get_finished_spans()[-1]
    assert last.attributes is not None
    assert last.attributes["millirank.degradation"] == reason


@pytest.mark.parametrize(
    "scores",
    [(math.nan,), (math.inf,), (-math.inf,), (), (1.0, 2.0)],
    ids=["nan", "inf", "-inf", "missing", "surplus"],
)
async def test_unusable_scores_discard_the_arm(scores: tuple[float, ...]) -> None:
    """Invariant 4: NaN, infinite, missing or surplus scores discard also what was scored before."""
    stage = Stage()
    stage.reranker.script = [None, None, Scored(scores=scores, tokens=1)]
    prefix = await stage.score()
    assert prefix.scores == ()
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.BAD_OUTPUT
    assert len(stage.reranker.calls) == 3


async def test_bad_output_error_discards_the_arm_too() -> None:
    """Invariant 4: a backend's own word that its answer is unusable counts the same."""
    stage = Stage()
    stage.reranker.script = [None, BadOutputError("no JSON")]
    prefix = await stage.score()
    assert prefix.scores == ()
    assert prefix.usage.tokens == 10  # what was paid for stays counted


async def test_timeout_within_the_remaining_time() -> None:
    """Invariant 6: a call that hangs gets what is left, not longer, and teaches the estimator."""
    stage = Stage()
    stage.reranker.gate = asyncio.Event()
    before = stage.estimator.predict(10, stage.clock.now).p95_ms
    prefix = await stage.score(budget_ms=20.0)  # 20 real ms, as the gate does not know the test's clock
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.BACKEND_TIMEOUT
    assert stage.reranker.finished == 0
    assert stage.estimator.predict(10, stage.clock.now).p95_ms >= before


async def test_cancelled_request_starts_no_further_chunk() -> None:
    """Invariant 6: cancelled during its first chunk, nothing is begun afterwards."""
    stage = Stage()
    stage.reranker.gate = asyncio.Event()
    task = asyncio.create_task(stage.score())
    await stage.reranker.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stage.reranker.gate.set()
    await asyncio.sleep(0)
    assert len(stage.reranker.calls) == 1
    assert (stage.reranker.cancelled, stage.reranker.finished) == (1, 0)


async def test_samples_teach_without_the_queue() -> None:
    """Time spent waiting for the model is not the model's: of 10 ms a call, 5 in the queue, 5 are learnt."""
    stage = Stage(texts=TEXTS * 10)
    stage.reranker.script = [Scored(scores=(1.0,), tokens=10, queue_ms=5.0, compute_ms=5.0) for _ in range(100)]
    prefix = await stage.score()
    assert prefix.queue_ms == 500.0
    assert stage.estimator.predict(10, stage.clock.now).p50_ms == pytest.approx(5.0, rel=0.2)


async def test_more_queue_than_time_passed_is_no_time() -> None:
    """A reranker whose clock is a little ahead does not make the request fail."""
    stage = Stage(texts=TEXTS[:1])
    stage.reranker.script = [Scored(scores=(1.0,), tokens=10, queue_ms=25.0)]
    prefix = await stage.score()
    assert (prefix.degradation, prefix.queue_ms) == (None, 25.0)


async def test_unexpected_exceptions_are_not_recorded_on_spans() -> None:
    """Invariant 11: an exception's words and stack stay off the span."""
    stage = Stage()
    stage.reranker.script = [RuntimeError(MARKER)]
    with pytest.raises(RuntimeError):
        await stage.score()
    (span,) = stage.spans.get_finished_spans()
    assert MARKER not in span.to_json()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (BackendError, DegradationReason.BACKEND_ERROR),
        (BadOutputError, DegradationReason.BAD_OUTPUT),
        (NotReadyError, DegradationReason.NOT_READY),
        (CircuitOpenError, DegradationReason.CIRCUIT_OPEN),
        (IndexUnavailableError, DegradationReason.INDEX_UNAVAILABLE),
        (RerankerError, DegradationReason.BACKEND_ERROR),
    ],
)
async def test_failed_call_still_costs_what_was_charged(kind: type[RerankerError], reason: DegradationReason) -> None:
    """Money spent in vain is counted with the money spent well, in whole micro-USD; the reason is the error's type's,
    and so is that of a shortfall that names the type."""
    stage = Stage()
    stage.reranker.script = [Scored(scores=(1.0,), tokens=10, micro_usd=2.3), kind("down", micro_usd=4.5)]
    prefix = await stage.score()
    assert prefix.usage.micro_usd == 7
    assert prefix.degradation is not None
    assert (prefix.degradation.reason, prefix.degradation.detail) == (reason, "down")
    short = Stage()
    short.reranker.script = [Scored(scores=(1.0,), tokens=10, shortfall="half", shortfall_error=kind)]
    prefix = await short.score()
    assert prefix.degradation is not None
    assert (prefix.degradation.reason, prefix.degradation.detail) == (reason, "half")


async def test_shortfall_ends_the_scoring() -> None:
    """A chunk that was not finished keeps its scores; no further chunk starts."""
    stage = Stage()
    stage.reranker.script = [None, Scored(scores=(1.0,), tokens=10, shortfall="half")]
    prefix = await stage.score()
    assert (len(prefix.scores), len(stage.reranker.calls)) == (2, 2)


async def test_shortfall_teaches_that_it_would_have_taken_longer() -> None:
    """A chunk that was cut short after 10 ms, 4 of them in the queue, is a sample that is censored at 6 ms."""
    prior = LatencyPrior(base_ms=0.0, ms_per_token=0.1, spread=1.5)
    stage, cut_off, ended = Stage(), LatencyEstimator(prior), LatencyEstimator(prior)
    stage.estimator = LatencyEstimator(prior)
    stage.reranker.script = [Scored(scores=(1.0,), tokens=10, queue_ms=4.0, compute_ms=6.0, shortfall="half")]
    await stage.score()
    now = stage.clock.now
    cut_off.observe_timeout(10, 6.0, now)
    ended.observe(10, 6.0, now)
    assert stage.estimator.predict(10, now) == pytest.approx(cut_off.predict(10, now))
    assert cut_off.predict(10, now).p95_ms > 1.1 * ended.predict(10, now).p95_ms


async def test_kept_scores_do_not_teach() -> None:
    """A chunk that needed no model run says nothing about the model's time."""
    stage = Stage(texts=TEXTS[:1])
    before = stage.estimator.predict(10, stage.clock.now)
    stage.reranker.script = [Scored(scores=(1.0,), tokens=0, cached=1)]
    await stage.score()
    assert stage.estimator.predict(10, stage.clock.now) == before


async def test_side_by_side_chunks_are_as_large_as_they_may_be() -> None:
    """Documents that are computed at the same time: each chunk takes all that one call can, though the estimator
    thinks that two documents would already last longer than a chunk should."""
    limits = Limits(max_chunk_documents=4, side_by_side=True)
    for side_by_side, sizes in ((True, [4, 4, 2]), (False, [1] * 10)):
        stage = Stage(limits=replace(limits, side_by_side=side_by_side))
        await stage.score()
        assert [len(call.documents) for call in stage.reranker.calls] == sizes


async def test_side_by_side_chunk_that_would_end_late_is_not_made_smaller() -> None:
    """A smaller chunk would be no faster: with 75 ms for chunks of 40 one is scored, and none of a part of them."""
    stage = Stage(limits=Limits(max_chunk_documents=4, side_by_side=True))
    prefix = await stage.score(budget_ms=75.0)
    assert [len(call.documents) for call in stage.reranker.calls] == [4]
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.BUDGET_EXHAUSTED
