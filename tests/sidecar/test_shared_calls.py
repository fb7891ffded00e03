"""One call of a model for several requests: each gets what it would get alone, and nobody waits for who has gone."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from router.admission import Claim, Level, Sharing
from router.arms import Strategy
from router.latency import LatencyEstimator, LatencyPrior, Pace
from sidecar.messages import DegradationReason
from sidecar.rerankers.base import BackendError, ScoreRequest
from sidecar.rerankers.local import LocalReranker
from sidecar.scheduler import Place, Scheduler, Scheduling, Turn
from sidecar.scored_prefix import ScoredPrefix
from sidecar.scoring import ScoringJob, score_prefix
from sidecar.shared_call import shared
from sidecar.worker_messages import LateResult, PairResult, ScoreLate, ScorePairs, ScoreTogether, Task
from tests.helpers import FakeWorker
from tests.rerankers.local_models import (
    MINILM,
    QUERY,
    TINY_CROSS_ENCODER,
    cross_encoder,
    documents,
    late_interaction,
    ready,
    score,
    until,
)


def now() -> float:
    return asyncio.get_running_loop().time()


def sharing_scheduler() -> Scheduler:
    """One worker, whose calls take 10 ms beside 0.1 ms a token."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    scheduler.sharing = Sharing(Pace(10.0, 0.1, 10.0, 0.1), 8, 100.0)
    return scheduler


def wait_in(scheduler: Scheduler) -> asyncio.Task[Turn]:
    """Somebody who waits with 20 tokens."""
    place: Place = scheduler.squeeze_in(Claim(Level.MANDATORY, now() + 9.0, 0.012, arrived=now()))
    return asyncio.create_task(place.next_turn(Level.MANDATORY, 0.012, tokens=20))


async def test_small_requests_behind_one_another_get_one_turn() -> None:
    """Three that wait while somebody else has the worker: all are given it at once, and know of each other."""
    scheduler = sharing_scheduler()
    first = await wait_in(scheduler)
    waiting = [wait_in(scheduler) for _ in range(3)]
    await asyncio.sleep(0)
    first.end()
    turns = await asyncio.gather(*waiting)
    assert [(turn.share.others, turn.beside_tokens) for turn in turns if turn.share] == [(2, 40)] * 3
    assert [turn.speaks_for_call for turn in turns] == [True, False, False]
    behind = wait_in(scheduler)
    for turn in turns:
        await asyncio.sleep(0.01)
        assert not behind.done(), "the worker was given away while some of the call had it"
        turn.end()
    assert (await behind).share is None


async def test_the_queue_is_one_call_long_where_calls_are_shared() -> None:
    """Four of 12 ms that wait, of which all go into one call: 18 ms, where each alone would make it 48."""
    scheduler = sharing_scheduler()
    first = await wait_in(scheduler)
    waiting = [wait_in(scheduler) for _ in range(4)]
    await asyncio.sleep(0)
    scheduler.leave(first.place)  # with all that it had to compute
    assert scheduler.queue_ms(math.inf) == pytest.approx(18.0, abs=5.0)
    first.end()
    for turn in await asyncio.gather(*waiting):
        turn.expected_s = 0.018
    # All of it is under way now, and counted once.
    assert scheduler.queue_ms(math.inf) == pytest.approx(18.0, abs=5.0)


async def doubled(tasks: Sequence[object]) -> list[object]:
    """A call that doubles numbers, and fails for the negative ones."""
    await asyncio.sleep(0)
    numbers = cast("Sequence[int]", tasks)
    return [BackendError("negative") if number < 0 else 2 * number for number in numbers]


async def test_the_call_begins_with_the_last_task() -> None:
    """Everybody gets their own result, in whatever order they come."""
    shares = shared([1, 1, 1])
    waiting = [asyncio.create_task(share.hand_in(number, 5.0, doubled)) for number, share in enumerate(shares[:2])]
    await asyncio.sleep(0.01)
    assert not any(each.done() for each in waiting)
    assert await shares[2].hand_in(2, 5.0, doubled) == 4
    assert await asyncio.gather(*waiting) == [0, 2]


async def test_who_leaves_is_not_waited_for() -> None:
    """The last of the others begins the call, or who leaves last; and it is theirs alone."""
    one, two, three = shared([10, 20, 30])
    waiting = [asyncio.create_task(share.hand_in(number, 5.0, doubled)) for number, share in ((1, one), (2, two))]
    await asyncio.sleep(0)
    three.leave()
    three.leave()  # as the end of its turn does
    assert await asyncio.gather(*waiting) == [2, 4]
    assert (one.others, one.beside_tokens) == (1, 20)


async def test_who_is_cancelled_costs_the_others_nothing() -> None:
    """Neither while the call is prepared nor while it runs."""
    one, two = shared([1, 1])
    gone = asyncio.create_task(one.hand_in(1, 5.0, doubled))
    await asyncio.sleep(0)
    gone.cancel()
    assert await two.hand_in(2, 5.0, doubled) == 4
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_one_failure_is_one_requests_own() -> None:
    """Others in the call have their results; what the whole call fails with is everybody's."""
    one, two = shared([1, 1])
    failing = asyncio.create_task(one.hand_in(-1, 5.0, doubled))
    assert await two.hand_in(2, 5.0, doubled) == 4
    with pytest.raises(BackendError, match="negative"):
        await failing

    async def broken(tasks: Sequence[object]) -> list[object]:
        raise BackendError("killed")

    one, two = shared([1, 1])
    failing = asyncio.create_task(one.hand_in(1, 5.0, broken))
    with pytest.raises(BackendError, match="killed"):
        await two.hand_in(2, 5.0, broken)
    with pytest.raises(BackendError, match="killed"):
        await failing


async def test_who_has_no_time_left_is_told_alone() -> None:
    """Its time ends in the middle of a call: the others wait on."""
    release = asyncio.Event()

    async def slow(tasks: Sequence[object]) -> list[object]:
        await release.wait()
        return list(tasks)

    one, two = shared([1, 1])
    late = asyncio.create_task(one.hand_in("one", 0.02, slow))
    patient = asyncio.create_task(two.hand_in("two", 5.0, slow))
    with pytest.raises(TimeoutError):
        await late
    release.set()
    assert await patient == "two"


@pytest_asyncio.fixture(params=["cross_encoder", "late_interaction"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[LocalReranker]:
    """An embedded model in its child process."""
    reranker = (
        cross_encoder("tiny", TINY_CROSS_ENCODER, threads=1)
        if request.param == "cross_encoder"
        else late_interaction("minilm", MINILM, threads=1, warm_idle=False)
    )
    await ready(reranker)
    yield reranker
    await reranker.close()


def together(reranker: LocalReranker, count: int, spans: InMemorySpanExporter) -> list[asyncio.Task[ScoredPrefix]]:
    """So many requests of one document each, at once, for a model of which calls are believed to be expensive."""
    estimator = LatencyEstimator(LatencyPrior(base_ms=10.0, ms_per_token=0.01))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))

    async def one(number: int) -> ScoredPrefix:
        texts = documents(1, tag=str(number))
        work = reranker.work(ScoreRequest(QUERY, "", texts))
        job = ScoringJob(f"{QUERY} {number}", "", texts, work, time.monotonic() + 30.0)
        return await score_prefix(job, reranker, estimator, provider.get_tracer("tests"))

    return [asyncio.create_task(one(number)) for number in range(count)]


async def test_scores_are_those_of_a_call_of_its_own(model: LocalReranker) -> None:
    """Six requests that come together are one call, as their spans say; the time for others is time in the queue."""
    spans = InMemorySpanExporter()
    prefixes = await asyncio.gather(*together(model, 6, spans))
    for number, prefix in enumerate(prefixes):
        alone = await score(model, documents(1, tag=str(number)), f"{QUERY} {number}")
        assert prefix.scores == pytest.approx(alone.scores, rel=0, abs=1e-5)
        assert prefix.degradation is None
    told = [dict(span.attributes or {}) for span in spans.get_finished_spans() if span.name == "score"]
    assert [each["millirank.chunk.other_requests"] for each in told] == [5] * 6
    assert [each["millirank.chunk.documents"] for each in told] == [1] * 6
    assert all(cast("float", each["millirank.queue_ms"]) > 0 for each in told)


async def test_a_child_that_dies_is_said_to_everybody_in_the_call(model: LocalReranker) -> None:
    """BACKEND_ERROR for each, at once; the next request is served by the next child."""
    pid = model.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    tasks = together(model, 4, InMemorySpanExporter())
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    prefixes = await asyncio.gather(*tasks)
    reasons = {prefix.degradation.reason for prefix in prefixes if prefix.degradation}
    assert reasons <= {DegradationReason.BACKEND_ERROR, DegradationReason.NOT_READY}
    assert all(prefix.degradation for prefix in prefixes)
    await until(lambda: model.pid not in (None, pid))
    await ready(model)
    assert len((await score(model, documents(1))).scores) == 1


async def test_texts_that_break_the_model_are_their_own_requests_trouble(model: LocalReranker) -> None:
    """In a call with others, one task that can't be computed: the others have their scores, and the reason that comes
    back for it is a type and a place."""
    fine: Task[object] = ScorePairs(QUERY, ("a text",))
    poisoned: Task[object] = ScorePairs(QUERY, (cast("str", 7),))
    if model.identity.strategy is Strategy.LATE_INTERACTION:
        fine, poisoned = ScoreLate(QUERY, ((b"fine", "a text"),)), ScoreLate(QUERY, ((b"bad", cast("str", 7)),))
    scheduler = model.scheduler
    claim = Claim(Level.MANDATORY, time.monotonic() + 60.0, 0.01)
    with scheduler.squeeze_in(claim) as place, await place.next_turn(Level.MANDATORY, 0.01) as turn:
        answer = await model._workers.call(ScoreTogether((fine, poisoned, fine)), turn)
    first, broken, last = answer.result
    assert isinstance(first, PairResult | LateResult)
    assert isinstance(last, PairResult | LateResult)
    assert first.scores == last.scores
    assert isinstance(broken, str)
    assert "TypeError in " in broken
