"""Scoring where workers are shared out: parts, refusals, and what a request says that others were before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, Tracer

from router.admission import Claim, Level
from router.arms import Availability, State, Work
from router.latency import LatencyEstimator, LatencyPrior
from sidecar.messages import DegradationReason
from sidecar.planner import _as_documents
from sidecar.scheduler import Scheduler, Scheduling
from sidecar.scored_prefix import ScoredPrefix
from sidecar.scoring import ScoringJob, score_prefix
from tests.helpers import FakeWorker, ScriptedReranker, request
from tests.virtual_time import VirtualLoop, run

TRACER = NoOpTracerProvider().get_tracer("tests")


class Shared:
    """A scripted reranker with one worker; a document is one token and is predicted to take 1 ms."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reranker = ScriptedReranker(tokens_per_document=1)
        self.scheduler = self.reranker.scheduler = Scheduler([FakeWorker()], Scheduling())
        self._estimator = LatencyEstimator(LatencyPrior(base_ms=0.0, ms_per_token=1.0, spread=1.01))

    async def score(self, name: str, documents: int, budget_s: float = 30.0, tracer: Tracer = TRACER) -> ScoredPrefix:
        texts = [f"{name} {number}" for number in range(documents)]
        end = self._clock() + budget_s
        job = ScoringJob(name, "", _as_documents(request(name, *texts)), Work((1,) * documents), end)
        return await score_prefix(job, self.reranker, self._estimator, tracer, self._clock)

    def chunks(self) -> list[tuple[str, int]]:
        """Whose chunks were computed, and of how many documents, in this order."""
        return [(call.query, len(call.documents)) for call in self.reranker.calls]


async def test_everybodys_first_sixteen_go_before_anybodys_rest() -> None:
    """Two requests of 40 that come together: 16 of each, then the rest of the one that is due first."""
    shared = Shared()
    one, two = await asyncio.gather(shared.score("one", 40, budget_s=20.0), shared.score("two", 40))
    assert (len(one.scores), len(two.scores)) == (40, 40)
    assert (one.degradation, two.degradation) == (None, None)
    assert shared.chunks()[:2] == [("one", 16), ("two", 16)]
    rest = [name for name, _ in shared.chunks()[2:]]
    assert rest == sorted(rest)
    assert set(rest) == {"one", "two"}


async def test_what_is_one_chunk_is_not_cut() -> None:
    """15 documents take 15 ms: the whole request is mandatory, in a single call."""
    shared = Shared()
    await shared.score("one", 15)
    assert shared.chunks() == [("one", 15)]


def test_overload_is_said_at_once() -> None:
    """16 ms of work would make half a second of work late that was admitted: OVERLOADED, and nothing is computed."""

    async def main(loop: VirtualLoop) -> tuple[ScoredPrefix, list[tuple[str, int]]]:
        shared = Shared(clock=loop.time)
        shared.scheduler.join(Claim(Level.MANDATORY, 0.5, 0.49))
        prefix = await shared.score("one", 40, budget_s=0.45)
        assert loop.time() == 0.0
        return prefix, shared.chunks()

    prefix, chunks = run(main)
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.OVERLOADED
    assert "0 of 40 candidates scored" in prefix.degradation.detail
    assert chunks == []


@pytest.mark.parametrize(("others", "first_chunk"), [(True, []), (False, [("one", 12)])])
def test_a_mandatory_part_that_became_too_long_is_not_begun_beside_others(
    others: bool, first_chunk: list[tuple[str, int]]
) -> None:
    """16 ms were admitted for a budget of 20 ms, and 12.9 ms are left when the turn comes: nothing is scored where
    somebody else waits for it, and begun with the 12 that fit where nobody does."""

    async def main(loop: VirtualLoop) -> list[tuple[str, int]]:
        shared = Shared(clock=loop.time)
        with shared.scheduler.squeeze_in(Claim(Level.MANDATORY, 9.0, 0.0)) as first:
            turn = await first.next_turn(Level.MANDATORY, 0.0)
            scoring = asyncio.create_task(shared.score("one", 40, budget_s=0.020))
            if others:
                other = shared.scheduler.squeeze_in(Claim(Level.MANDATORY, 20.0, 0.001))
                waiting = asyncio.create_task(other.next_turn(Level.MANDATORY, 0.001))
            await asyncio.sleep(0)
            loop.now += 0.0071
            turn.end()
            prefix = await scoring
            if others:
                (await waiting).end()
                assert prefix.degradation is not None
                assert prefix.degradation.reason is DegradationReason.OVERLOADED
        return shared.chunks()[:1]

    assert run(main) == first_chunk


async def test_a_rest_that_never_gets_its_turn_leaves_the_first_part() -> None:
    """While others have the worker the budget ends: the first 16 are used, and OVERLOADED says why no more."""
    shared = Shared()
    scoring = asyncio.create_task(shared.score("one", 40, budget_s=0.15))
    await shared.reranker.entered.wait()
    other = Claim(Level.MANDATORY, time.monotonic() + 9.0, 0.0)
    with shared.scheduler.squeeze_in(other) as place, await place.next_turn(Level.MANDATORY, 0.0):
        prefix = await scoring
    assert len(prefix.scores) == 16
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.OVERLOADED
    assert prefix.queue_ms == pytest.approx(150, abs=60)


async def test_too_small_a_budget_is_not_blamed_on_others() -> None:
    """Half a millisecond for documents of one, and nobody else there: BUDGET_TOO_SMALL."""
    shared = Shared()
    prefix = await shared.score("one", 40, budget_s=0.0005)
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.BUDGET_TOO_SMALL


async def test_a_model_that_takes_no_calls_is_not_waited_for() -> None:
    """NOT_READY with its reason, at once and not at the end of the budget."""
    shared = Shared()
    shared.reranker.state = Availability(State.WARMING, "restarting in 1 s")
    started = time.monotonic()
    prefix = await shared.score("one", 40)
    assert time.monotonic() - started < 1.0
    assert prefix.degradation is not None
    assert prefix.degradation.reason is DegradationReason.NOT_READY
    assert "restarting in 1 s" in prefix.degradation.detail


async def test_a_wait_for_others_is_a_span() -> None:
    """`queue`: for which reranker and from which candidate on, as long as the answer says, beside the chunks. Who waits
    for nobody has none."""
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("tests")
    shared = Shared()
    await shared.score("alone", 10, tracer=tracer)
    assert {span.name for span in spans.get_finished_spans()} == {"score"}
    spans.clear()
    shared.reranker.gate = asyncio.Event()
    before = asyncio.create_task(shared.score("before", 10))
    await shared.reranker.entered.wait()
    with tracer.start_as_current_span("request") as request_span:
        waiting = asyncio.create_task(shared.score("after", 10, tracer=tracer))
    await asyncio.sleep(0.05)
    shared.reranker.gate.set()
    prefix = await waiting
    await before
    by_name = {span.name: span for span in spans.get_finished_spans()}
    queue, score = by_name["queue"], by_name["score"]
    assert queue.attributes == {
        "millirank.reranker": "scripted",
        "millirank.queue.level": "mandatory",
        "millirank.chunk.first": 0,
    }
    assert queue.start_time is not None
    assert queue.end_time is not None
    assert (queue.end_time - queue.start_time) / 1e6 == pytest.approx(prefix.queue_ms, abs=5.0)
    assert prefix.queue_ms > 20.0
    for span in (queue, score):
        assert span.parent is not None
        assert span.parent.span_id == request_span.get_span_context().span_id
