"""Budget, deadline and a caller that leaves, over a real channel to the real server in this process."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1.rerank_service_pb2_grpc import RerankServiceStub

from tests.e2e.rpc import RERANK, TEXTS, TIMEOUT_S, failure_of, message, order_of, reasons_of, rerank
from tests.helpers import ScriptedReranker


async def test_zero_budget(stub: RerankServiceStub) -> None:
    """OK in first-stage order with BUDGET_TOO_SMALL; DEADLINE_EXCEEDED with FAIL."""
    response = await rerank(stub, message(*TEXTS, budget_ms=0.0))
    assert (order_of(response), reasons_of(response)) == ([0, 1, 2], ["BUDGET_TOO_SMALL"])
    assert response.decision.spendable.ToNanoseconds() == 0
    sent = message(*TEXTS, budget_ms=0.0)
    sent.budget.overrun_policy = pb.OVERRUN_POLICY_FAIL
    failure = await failure_of(rerank(stub, sent))
    assert (failure.code, failure.info.reason) == ("DEADLINE_EXCEEDED", "BUDGET_TOO_SMALL")


async def test_absent_budget(stub: RerankServiceStub) -> None:
    """100 ms without a deadline or with a long one; what is left of a shorter deadline; less the reserve of 2 ms."""
    for timeout in (None, 600.0):
        response = await stub.Rerank(message(*TEXTS), timeout=timeout)
        assert response.decision.spendable.ToMilliseconds() == 98


async def test_budget_larger_than_the_deadline(stub: RerankServiceStub) -> None:
    """What is left of the deadline counts, and never more than that, although gRPC rounds timeouts up on their way.
    The lower bounds are generous: the way here may take long on a loaded machine."""
    for timeout, least_ms in ((0.9, 100), (1.5, 700), (20.0, 10_000), (150.0, 100_000)):
        response = await stub.Rerank(message(*TEXTS, budget_ms=3_600_000.0), timeout=timeout)
        assert least_ms < response.decision.spendable.ToMilliseconds() <= timeout * 1e3 - 1


async def test_time_before_a_request_is_read_counts(address: str) -> None:
    """While the event loop is busy for 300 ms nobody reads the request; its deadline, 100 ms after the end of its
    budget of 800 ms, tells how long that was. A caller who does not say by how much they differ gets the whole budget.
    """
    spent = message(*TEXTS, budget_ms=800.0)
    spent.budget.deadline_slack.FromMilliseconds(100)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(RERANK, response_deserializer=pb.RerankResponse.FromString)
        unsaid = message(*TEXTS, budget_ms=800.0)
        for sent, timeout, least_ms, most_ms in ((unsaid, 5.0, 798, 798), (spent, 0.9, 0, 780)):
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, TIMEOUT_S)
            answer = asyncio.get_running_loop().run_in_executor(None, call, sent.SerializeToString(), timeout)
            time.sleep(0.3)  # on the event loop, on purpose
            response = await answer
            assert least_ms <= response.decision.spendable.ToMilliseconds() <= most_ms


async def test_expired_deadline(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """A deadline that is over is over: DEADLINE_EXCEEDED at the caller, and nothing is scored for it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Rerank(message(*TEXTS), timeout=-1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await rerank(stub, message("a"))  # whatever came before it has been handled
    assert reranker.calls == []


async def test_caller_that_leaves_stops_the_work(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """Invariant 6: a call that is cancelled at the client is cancelled in the reranker; no new chunk starts."""
    reranker.gate = asyncio.Event()
    call = stub.Rerank(message(*TEXTS, budget_ms=3_600_000.0), timeout=TIMEOUT_S)
    await asyncio.sleep(0)
    asyncio.ensure_future(call)  # noqa: RUF006 - it ends with the cancellation below
    await reranker.entered.wait()
    call.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        while not reranker.cancelled:
            await asyncio.sleep(0.002)
    reranker.gate.set()
    await rerank(stub, message("a"))  # a round trip later nothing has started
    assert (len(reranker.calls), reranker.finished) == (1, 0)


async def test_deadline_stops_the_work(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """Invariant 6: when the caller's deadline ends in the first of three chunks, the others never start. The server's
    answer is 2 ms (its reserve) ahead of the deadline, which on a loaded machine may win: both are right."""
    reranker.gate = asyncio.Event()
    sent = message(*TEXTS, routing=pb.Routing(reranker="scripted"), budget_ms=3_600_000.0)
    (ended,) = await asyncio.gather(stub.Rerank(sent, timeout=0.5), return_exceptions=True)
    if isinstance(ended, grpc.aio.AioRpcError):
        assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        assert reasons_of(ended) == ["BACKEND_TIMEOUT"]
    reranker.gate.set()
    await rerank(stub, message("a"))
    assert (len(reranker.calls), reranker.finished) == (1, 0)
