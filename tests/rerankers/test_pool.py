"""A model on a pool over gRPC: real channels, real servers, scripted models behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from router.arms import Availability, State, Strategy
from router.policy import Routing
from sidecar.pool_channel import PoolChannel
from sidecar.rerankers import pool
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    Identity,
    NotReadyError,
    OverloadedError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.kept_scores import KeptScores
from sidecar.rerankers.pool import PoolReranker
from sidecar.settings import Listen
from tests.helpers import MARKER, Rig, ScriptedReranker, overlap, rig
from tests.helpers import request as whole_request
from tests.rerankers.local_models import documents, settled, until
from tests.rerankers.pool_cases import PATIENT_S, Broken, arm, calling, served
from tests.rerankers.remote_cases import REQUEST, SLACK_S, TEXTS, request_for

QUERY = "red green blue"

pytestmark = pytest.mark.usefixtures("quick_looks")


@pytest.fixture
def model() -> ScriptedReranker:
    """What the pool runs."""
    return ScriptedReranker("bge")


@pytest.fixture
async def there(model: ScriptedReranker) -> AsyncIterator[tuple[str, Rig]]:
    """A pool of one model: its address and its parts."""
    async with served(model) as pair:
        yield pair


@pytest.fixture
async def pooled(there: tuple[str, Rig], model: ScriptedReranker) -> AsyncIterator[PoolReranker]:
    """The arm, ready, and what the warm-up has asked forgotten."""
    async with calling([there[0]]) as reranker:
        model.calls.clear()
        yield reranker


async def test_scores_are_the_models_own(pooled: PoolReranker) -> None:
    """raw_score, not what the pool fused it to; in the order of the request."""
    scored = await pooled.score(REQUEST, PATIENT_S)
    assert scored.scores == tuple(overlap(QUERY, text) for text in TEXTS)
    assert not scored.unscored
    assert scored.revision == "bge-revision-1" == pooled.identity.revision


async def test_the_time_that_is_left_is_the_pools_budget(pooled: PoolReranker, there: tuple[str, Rig]) -> None:
    """The budget arrives less what the way takes, so that the pool's answer is back in time."""
    there[1].spans.clear()
    await pooled.score(REQUEST, 0.9)
    attributes = there[1].span("route").attributes or {}
    assert 700.0 < attributes["millirank.budget_ms"] < 900.0  # type: ignore[operator]
    assert attributes["millirank.budget_limited_by"] == "request"


async def test_the_trace_goes_on_in_the_pool(pooled: PoolReranker, there: tuple[str, Rig]) -> None:
    """The pool's server span is a child of the span that was current at the call."""
    spans = there[1].spans
    spans.clear()
    with TracerProvider(shutdown_on_exit=False).get_tracer("near").start_as_current_span("score") as span:
        await pooled.score(REQUEST, PATIENT_S)
        context = span.get_span_context()
    server = there[1].span("millirank.v1.RerankService/Rerank")
    assert server.context is not None
    assert server.context.trace_id == context.trace_id
    assert server.parent is not None
    assert server.parent.span_id == context.span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_the_tenant_keeps_apart_what_the_pool_keeps(pooled: PoolReranker, model: ScriptedReranker) -> None:
    """Equal texts of two tenants have different digests in the pool too (invariant 9)."""
    for tenant in ("one", "two", "one"):
        await pooled.score(replace(REQUEST, tenant=tenant), PATIENT_S)
    first, second = model.calls  # the third was answered from the pool's cache
    assert first.documents[0].text == second.documents[0].text
    assert first.documents[0].digest != second.documents[0].digest


async def test_an_answer_in_part_is_used(pooled: PoolReranker, model: ScriptedReranker) -> None:
    """What the pool could not score in time is unscored, and the pool says why; this is no failure."""
    scores = (3.0, 0.0, 0.0, 0.0)
    model.script = [Scored(scores, 10, unscored=frozenset({1, 2, 3}), shortfall="time is up", compute_ms=1.0)]
    scored = await pooled.score(REQUEST, PATIENT_S)
    assert scored.scores == scores
    assert scored.unscored == {1, 2, 3}
    assert "time is up" in scored.shortfall
    assert scored.shortfall_error is None


@pytest.mark.parametrize("error", [BackendError, NotReadyError, BadOutputError, CircuitOpenError])
async def test_a_failure_in_the_pool_keeps_its_kind(
    pooled: PoolReranker, model: ScriptedReranker, error: type[BackendError]
) -> None:
    """Degradations stay typed across the hop (invariant 5)."""
    model.script = [error("the model fell over")]
    with pytest.raises(error, match="the model fell over"):
        await pooled.score(REQUEST, PATIENT_S)


async def test_a_pool_with_too_much_to_do_has_not_failed(pooled: PoolReranker, model: ScriptedReranker) -> None:
    """However often it says OVERLOADED, the circuit stays closed."""
    for _ in range(10):
        model.script = [OverloadedError("too many before this")]
        scored = await pooled.score(REQUEST, PATIENT_S)
        assert scored.shortfall_error is OverloadedError
        assert len(scored.unscored) == len(TEXTS)
    assert pooled.availability().state is State.READY


async def test_a_hung_pool_is_left_in_time(model: ScriptedReranker) -> None:
    """The clock is held here: TimeoutError at the end of the time, whatever the pool does or does not."""
    broken = Broken()
    async with served(model) as (good, _), calling([good]) as reranker, broken.served() as address:
        broken.hangs = True
        reranker._transport = PoolChannel([address], "bge", Strategy.CROSS_ENCODER)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await reranker.score(REQUEST, 0.2)
        assert 0.19 < time.monotonic() - started < 0.2 + SLACK_S


async def test_cancelling_stops_the_pool(pooled: PoolReranker, model: ScriptedReranker) -> None:
    """The call that nobody waits for any more is cancelled there, too (invariant 6)."""
    model.gate = asyncio.Event()
    model.entered.clear()
    call = asyncio.create_task(pooled.score(REQUEST, PATIENT_S))
    await model.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: model.cancelled == 1, 2.0)


async def test_a_pool_that_comes_later_is_found() -> None:
    """WARMING with the reason until there is one; then READY without a restart."""
    model = ScriptedReranker("bge")
    async with served(model) as (address, _):
        pass
    reranker = arm([address])
    await reranker.start()
    await until(lambda: "no address" in reranker.availability().detail, 5.0)
    assert reranker.availability().state is State.WARMING
    with pytest.raises(NotReadyError):
        await reranker.score(REQUEST, PATIENT_S)
    parts = rig(model)
    async with parts.served(Listen(tcp=address)):
        await until(lambda: reranker.availability().state is State.READY, 10.0)
        await reranker.close()


async def test_a_pool_without_the_model_switches_the_arm_off(there: tuple[str, Rig]) -> None:
    """OFF, in the pool's words, which list what it has."""
    reranker = arm([there[0]], name="another")
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    await reranker.close()
    assert availability.state is State.OFF
    assert "configured: bge" in availability.detail


async def test_a_model_that_is_switched_off_there_is_off_here(there: tuple[str, Rig], model: ScriptedReranker) -> None:
    """With the reason."""
    model.state = Availability(State.OFF, "no such folder")
    reranker = arm([there[0]])
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    await reranker.close()
    assert availability.state is State.OFF
    assert "no such folder" in availability.detail


async def test_another_revision_is_noticed_without_traffic(pooled: PoolReranker, model: ScriptedReranker) -> None:
    """Who only answers from caches still learns that the pool's model was replaced."""
    model.identity = Identity("bge", Strategy.CROSS_ENCODER, "bge-revision-2")
    await until(lambda: pooled.identity.revision == "bge-revision-2", 5.0)


async def test_scores_of_two_models_are_neither_mixed_nor_kept_as_one(
    pooled: PoolReranker, model: ScriptedReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is replaced between two requests that share documents: all scores of the second are the new one's."""
    monkeypatch.setattr(pool, "LOOK_S", 60.0)
    await asyncio.sleep(0.3)  # the last look at short intervals
    kept = KeptScores(pooled, 1 << 20, 60.0)
    await kept.score(request_for(QUERY, *TEXTS[:2]), PATIENT_S)
    model.identity = Identity("bge", Strategy.CROSS_ENCODER, "bge-revision-2")
    new = (10.0, 20.0, 30.0, 40.0)
    model.script = [Scored(new[2:], 1, compute_ms=1.0), Scored(new, 1, compute_ms=1.0)]
    scored = await kept.score(REQUEST, PATIENT_S)
    assert scored.scores == new
    assert scored.revision == "bge-revision-2"


async def test_an_answer_of_another_model_than_planned_is_not_cached(
    pooled: PoolReranker, model: ScriptedReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which model it is of; and an equal request is not given it under the name of the planned one."""
    monkeypatch.setattr(pool, "LOOK_S", 60.0)
    await asyncio.sleep(0.3)
    near = rig(pooled)  # type: ignore[arg-type]
    asked = whole_request(QUERY, *TEXTS, budget_ms=2_000.0)
    asked = replace(asked, routing=Routing(reranker="pooled"))
    model.identity = Identity("bge", Strategy.CROSS_ENCODER, "bge-revision-2")
    first = await near.pipeline.rerank(asked, None, time.monotonic())
    assert first.explanation.model_revision == "bge-revision-2"
    pooled._revision = "bge-revision-1"  # as if a replica that is not replaced yet had answered since
    second = await near.pipeline.rerank(asked, None, time.monotonic())
    assert second.cache == "miss"
    await near.pipeline.close()


async def test_nothing_of_a_text_is_told(pooled: PoolReranker, model: ScriptedReranker) -> None:
    """Whatever goes wrong in the pool, errors hold no text (invariant 11)."""
    model.script = [RuntimeError(f"cannot score {MARKER}")]
    with pytest.raises(BackendError) as caught:
        await pooled.score(request_for(MARKER, MARKER, MARKER), PATIENT_S)
    assert MARKER not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_more_candidates_than_one_call_takes_are_refused(pooled: PoolReranker) -> None:
    """The planner knows the limit; whoever does not is told."""
    with pytest.raises(ValueError, match="at most 1000"):
        await pooled.score(ScoreRequest(QUERY, "", documents(1001)), PATIENT_S)
