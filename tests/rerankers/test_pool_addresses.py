"""A pool of several addresses: calls go round, and one that is gone or fails costs no answer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from sidecar.rerankers.pool import PoolReranker
from tests.helpers import ScriptedReranker
from tests.rerankers.pool_cases import PATIENT_S, Broken, calling, served
from tests.rerankers.remote_cases import REQUEST, TEXTS, request_for

pytestmark = pytest.mark.usefixtures("quick_looks")


async def test_calls_go_round_the_addresses() -> None:
    """Two addresses share the calls; about evenly, since the looks for the current model take their turns, too."""
    models = [ScriptedReranker("bge"), ScriptedReranker("bge")]
    async with served(models[0]) as (one, _), served(models[1]) as (two, _), calling([one, two]) as reranker:
        await both_connected(reranker, models)
        for number in range(20):
            await reranker.score(request_for(f"{REQUEST.query} {number}", *TEXTS), PATIENT_S)
        calls = [len(model.calls) for model in models]
        assert sum(calls) == 20
        assert min(calls) >= 7


async def test_an_address_that_is_gone_costs_a_second_attempt_and_no_answer() -> None:
    """One of two servers ends; every request is answered by the other."""
    models = [ScriptedReranker("bge"), ScriptedReranker("bge")]
    async with contextlib.AsyncExitStack() as stack:
        one, parts = await stack.enter_async_context(served(models[0]))
        two, _ = await stack.enter_async_context(served(models[1]))
        reranker = await stack.enter_async_context(calling([one, two]))
        await both_connected(reranker, models)
        await parts.servers[0].stop(0.0, 0.0)
        for number in range(20):
            scored = await reranker.score(request_for(f"{REQUEST.query} {number}", *TEXTS), PATIENT_S)
            assert not scored.shortfall


async def both_connected(reranker: PoolReranker, models: list[ScriptedReranker]) -> None:
    """Until both servers have been called; then what they have counted is forgotten."""
    for number in range(100):
        await reranker.score(request_for(f"connect {number}", *TEXTS), PATIENT_S)
        if all(model.calls for model in models):
            break
        await asyncio.sleep(0.02)
    for model in models:
        model.calls.clear()


async def test_an_address_that_always_fails_is_left_out() -> None:
    """gRPC's outlier ejection: after a second of failures nothing is sent there for a while, while others answer."""
    model, broken = ScriptedReranker("bge"), Broken()
    async with served(model) as (good, _), broken.served() as bad, calling([good, bad]) as reranker:
        broken.failing = True
        for _ in range(150):  # three of the intervals in which gRPC looks at what has failed
            await reranker.score(replace(REQUEST, use_cache=False), PATIENT_S)
            await asyncio.sleep(0.02)
        assert broken.calls > 0, "it was never asked, so that this shows nothing"
        before = broken.calls
        for _ in range(30):
            await reranker.score(replace(REQUEST, use_cache=False), PATIENT_S)
        assert broken.calls == before
