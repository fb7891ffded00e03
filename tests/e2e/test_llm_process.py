"""A sidecar process with an LLM arm, end to end: order, price, cancellation, and texts that must not leak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from tests.e2e.llm_arm import llm_settings, until_ready
from tests.e2e.rpc import TIMEOUT_S, connected, failure_of, message, order_of, reasons_of
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.helpers import MARKER
from tests.rerankers.fake_openai import FakeOpenAI, Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUDGET_MS = 50_000.0


@dataclass(frozen=True, slots=True)
class Running:
    """A sidecar that is ready, the LLM behind it, and a stub."""

    sidecar: SidecarProcess
    llm: FakeOpenAI
    stub: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One process for all tests of this file; each sends queries of its own and sets the fault that it needs."""
    async with FakeOpenAI() as llm:
        variables = llm_settings(llm, tmp_path_factory.mktemp("llm")) | {
            "MILLIRANK_LOG_LEVEL": "debug",
            "MILLIRANK_RERANKERS__LLM__PROMPT_MICRO_USD_PER_1K": "150",
            "MILLIRANK_RERANKERS__LLM__COMPLETION_MICRO_USD_PER_1K": "600",
            "MILLIRANK_LINGER_S": "0",
        }
        with SidecarProcess(variables) as sidecar:
            (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
            async with connected(address) as stub:
                await until_ready(stub)
                yield Running(sidecar, llm, stub)


@pytest_asyncio.fixture(loop_scope="module")
async def running(process: Running) -> Running:
    process.llm.fault = Fault.NONE
    process.llm.received.clear()
    process.llm.disconnected.clear()
    return process


async def test_answer_has_order_tokens_and_price(running: Running) -> None:
    """The LLM's grades make the order; its usage and price are in the answer."""
    sent = message(
        "blue", "price", "a price tag", query="price tag", budget_ms=BUDGET_MS, instruction="prefer short ones"
    )
    response = await running.stub.Rerank(sent, timeout=PATIENCE_S)
    assert order_of(response) == [2, 1, 0]
    assert [result.raw_score for result in response.results] == [2.0, 1.0, 0.0]
    assert response.decision.strategy == dpb.STRATEGY_LLM
    assert response.usage.tokens == 1100
    assert response.usage.cost_micro_usd == 210  # 1,000 prompt tokens at 0.15 and 100 of completion at 0.6 micro-USD
    assert running.llm.received[0].message["instruction"] == "prefer short ones"


async def test_same_question_is_paid_once(running: Running) -> None:
    """Invariant 9: the second equal request is a HIT without a call, another tenant's is not."""
    for tenant, status, calls in (("a", "MISS", 1), ("a", "HIT", 1), ("b", "MISS", 2)):
        sent = message("one", "two once", query="paid once", budget_ms=BUDGET_MS, tenant=tenant)
        response = await running.stub.Rerank(sent, timeout=PATIENCE_S)
        assert pb.CacheStatus.Name(response.cache_status) == f"CACHE_STATUS_{status}"
        assert len(running.llm.received) == calls
        assert (response.usage.cost_micro_usd == 0) == (status == "HIT")


async def test_price_limit(running: Running) -> None:
    """An empty purse: first-stage order, the arm is OVER_COST, and nothing is called."""
    sent = message("one", "two", query="purse", budget_ms=BUDGET_MS)
    sent.budget.max_cost_micro_usd = 0
    response = await running.stub.Rerank(sent, timeout=TIMEOUT_S)
    assert (order_of(response), reasons_of(response)) == ([0, 1], ["BUDGET_TOO_SMALL"])
    assert dpb.VERDICT_OVER_COST in {arm.verdict for arm in response.decision.considered}
    assert running.llm.received == []


async def test_more_candidates_than_one_call_takes(running: Running) -> None:
    """A forced LLM over 60 candidates scores the first 50, which is what it takes in its one call, not an error."""
    texts = [f"word {number}" for number in range(60)]
    sent = message(*texts, query="word 49", budget_ms=BUDGET_MS, routing=pb.Routing(reranker="llm", rerank_k=60))
    sent.budget.max_cost_micro_usd = 1_000_000
    response = await running.stub.Rerank(sent, timeout=PATIENCE_S)
    assert (response.decision.planned_k, response.decision.scored_k) == (50, 50)
    assert order_of(response)[0] == 49
    assert order_of(response)[50:] == list(range(50, 60))
    assert [len(received.passages) for received in running.llm.received] == [50]


async def test_cancelled_call_closes_the_remote_one(running: Running) -> None:
    """Invariant 6: when the caller leaves, the connection to the LLM is closed, so that it stops working."""
    running.llm.fault = Fault.HANG
    call = running.stub.Rerank(message("one", "two", query="hang", budget_ms=BUDGET_MS), timeout=PATIENCE_S)
    waiting = asyncio.ensure_future(call)
    async with asyncio.timeout(TIMEOUT_S):
        while not running.llm.received:
            await asyncio.sleep(0.005)
    call.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        await running.llm.disconnected.wait()
    (ended,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)


async def test_backend_that_hangs_ends_with_the_budget(running: Running) -> None:
    """Invariants 2 and 7: one attempt, cut off by the budget: first-stage order with BACKEND_TIMEOUT, or the plain
    DEADLINE_EXCEEDED of FAIL; the remote call is closed. What is waited at most is far above the budget of 0.3 s,
    because the machine may be loaded, and far below the backend's own limit."""
    running.llm.fault = Fault.HANG
    forced = pb.Routing(reranker="llm", rerank_k=2)
    sent = message("one", "two", query="hangs", budget_ms=300.0, routing=forced)
    response = await running.stub.Rerank(sent, timeout=10.0)
    assert (order_of(response), reasons_of(response)) == ([0, 1], ["BACKEND_TIMEOUT"])
    await asyncio.wait_for(running.llm.disconnected.wait(), TIMEOUT_S)
    assert len(running.llm.received) == 1
    sent.budget.overrun_policy = pb.OVERRUN_POLICY_FAIL
    failure = await failure_of(running.stub.Rerank(sent, timeout=10.0))
    assert (failure.code, failure.info.reason) == ("DEADLINE_EXCEEDED", "BACKEND_TIMEOUT")


@pytest.mark.parametrize(
    ("fault", "status", "reason", "cost_micro_usd"),
    [
        (Fault.HANG, 200, "BACKEND_TIMEOUT", 0),
        (Fault.DRIP, 200, "BACKEND_TIMEOUT", 0),
        (Fault.STATUS, 429, "BACKEND_ERROR", 0),
        (Fault.STATUS, 503, "BACKEND_ERROR", 0),
        (Fault.NOT_JSON_BODY, 200, "BAD_OUTPUT", 0),
        (Fault.NOT_JSON_CONTENT, 200, "BAD_OUTPUT", 210),
        (Fault.TOO_FEW, 200, "BAD_OUTPUT", 210),
    ],
)
async def test_each_fault_costs_the_caller_nothing_but_its_price(
    running: Running, fault: Fault, status: int, reason: str, cost_micro_usd: int
) -> None:
    """Invariants 2, 5 and 7: whatever the backend does, the answer is OK with first-stage order and the reason, after
    one attempt; where the backend charged for what could not be used, the price is in the answer."""
    running.llm.fault, running.llm.status = fault, status
    forced = pb.Routing(reranker="llm", rerank_k=2)
    budget_ms = 300.0 if fault in (Fault.HANG, Fault.DRIP) else BUDGET_MS
    sent = message("one", "two", query=f"{fault} {status} two", budget_ms=budget_ms, routing=forced)
    response = await running.stub.Rerank(sent, timeout=PATIENCE_S)
    assert (order_of(response), reasons_of(response)) == ([0, 1], [reason])
    assert response.completeness == pb.COMPLETENESS_FIRST_STAGE_ONLY
    assert response.usage.cost_micro_usd == cost_micro_usd
    assert len(running.llm.received) == 1
    # Nothing of it was kept: the same question is answered as soon as the backend is well (and no circuit opens).
    running.llm.fault = Fault.NONE
    sent.budget.latency.FromSeconds(int(PATIENCE_S))
    again = await running.stub.Rerank(sent, timeout=PATIENCE_S)
    assert (order_of(again), reasons_of(again)) == ([1, 0], [])


async def test_texts_that_the_backend_repeats_do_not_leak(running: Running) -> None:
    """Invariant 11: an LLM whose errors quote query and documents: none of it is in the answer or, at debug level, in
    the log."""
    query = f"{MARKER} quoted"
    for fault in (Fault.STATUS, Fault.NOT_JSON_CONTENT, Fault.SURPLUS):
        running.llm.fault = fault
        sent = message(MARKER, f"{MARKER} red", query=query, budget_ms=BUDGET_MS)
        response = await running.stub.Rerank(sent, timeout=PATIENCE_S)
        assert response.degradations
        assert MARKER not in str(response)
    running.llm.fault = Fault.NONE
    await running.stub.Rerank(message("a", "b", query="last", budget_ms=BUDGET_MS), timeout=PATIENCE_S)
    assert MARKER not in running.sidecar.output
