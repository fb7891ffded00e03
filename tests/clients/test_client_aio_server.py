"""Both clients against a grpc.aio server that implements RerankService by hand, as a real sidecar does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from millirank import AsyncClient, InvalidRequestError, Outcome, Reason
from millirank.v1 import decision_pb2, rerank_service_pb2_grpc
from millirank.v1 import rerank_service_pb2 as pb
from peers import DOCUMENTS, ROOMY_MS, TOLERANCE_MS


class ByHand(rerank_service_pb2_grpc.RerankServiceServicer):
    """Does what the query says."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def Rerank(  # the generated name
        self, request: pb.RerankRequest, context: grpc.aio.ServicerContext
    ) -> pb.RerankResponse:
        count = len(request.documents)
        if request.query == "slow":
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if request.query == "bug":
            raise RuntimeError("a bug in the sidecar")
        if request.query == "refused":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        scored = 1 if request.query == "partial" else count
        order = [*range(scored)[::-1], *range(scored, count)]
        if request.query == "garbage":
            order[0] = count
        return pb.RerankResponse(
            results=[
                pb.Result(index=index, score=-rank, score_source=pb.SCORE_SOURCE_RERANKER)
                if rank < scored
                else pb.Result(index=index, score_source=pb.SCORE_SOURCE_FIRST_STAGE)
                for rank, index in enumerate(order)
            ],
            completeness=pb.COMPLETENESS_FULL if scored == count else pb.COMPLETENESS_PARTIAL,
            degradations=[] if scored == count else [pb.Degradation(reason=pb.DEGRADATION_REASON_BUDGET_EXHAUSTED)],
        )

    async def ExplainRoute(  # the generated name
        self, request: pb.ExplainRouteRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExplainRouteResponse:
        return pb.ExplainRouteResponse(
            decision=decision_pb2.Decision(id=request.request.query, planned_k=len(request.request.documents))
        )


@pytest.fixture
async def by_hand(make_client: Any) -> AsyncIterator[Any]:
    """Each client in turn, connected to the server, which runs in the test's own event loop."""
    server = grpc.aio.server()
    rerank_service_pb2_grpc.add_RerankServiceServicer_to_server(ByHand(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = make_client(f"127.0.0.1:{port}")
    assert await client.wait_until_ready()
    yield client
    await client.close()
    await server.stop(None)


@pytest.mark.parametrize(
    ("query", "outcome", "order", "reasons"),
    [
        ("plain", Outcome.RANKED, [3, 2, 1, 0], ()),
        ("partial", Outcome.PARTIAL, [0, 1, 2, 3], (Reason.BUDGET_EXHAUSTED,)),
        ("bug", Outcome.FIRST_STAGE, [0, 1, 2, 3], (Reason.SIDECAR_ERROR,)),
        ("garbage", Outcome.FIRST_STAGE, [0, 1, 2, 3], (Reason.SIDECAR_ERROR,)),
    ],
)
async def test_every_behaviour_has_its_outcome(
    by_hand: Any, query: str, outcome: Outcome, order: list[int], reasons: tuple[Reason, ...]
) -> None:
    """Ranked, partial, failing and nonsensical answers."""
    ranking = await by_hand.rerank(query, DOCUMENTS, budget_ms=ROOMY_MS)

    assert (ranking.outcome, ranking.reasons) == (outcome, reasons)
    assert [entry.index for entry in ranking] == order


async def test_a_slow_answer_is_not_waited_for(by_hand: Any) -> None:
    """A server that shares the client's event loop and takes 5 s: first-stage order at the budget."""
    rankings = [await by_hand.rerank("slow", DOCUMENTS, budget_ms=50) for _ in range(3)]

    assert all(ranking.reasons == (Reason.SIDECAR_TIMEOUT,) for ranking in rankings)
    assert all(ranking.documents == DOCUMENTS for ranking in rankings)
    assert min(ranking.elapsed_ms for ranking in rankings) <= 50 + TOLERANCE_MS


async def test_a_refused_request_is_raised(by_hand: Any) -> None:
    """INVALID_ARGUMENT without details still is the caller's mistake."""
    with pytest.raises(InvalidRequestError, match="refused"):
        await by_hand.rerank("refused", DOCUMENTS)


async def test_the_decision_is_explained(by_hand: Any) -> None:
    """ExplainRoute over the generated servicer."""
    decision = await by_hand.explain("why", DOCUMENTS)
    assert (decision.id, decision.planned_k) == ("why", 4)


async def test_a_cancelled_task_takes_its_call_along() -> None:
    """Cancelling the caller's task ends it at once, cancels the call in the sidecar, and counts as raised."""
    servicer = ByHand()
    server = grpc.aio.server()
    rerank_service_pb2_grpc.add_RerankServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        assert await client.wait_until_ready()
        running = asyncio.create_task(client.rerank("slow", DOCUMENTS, budget_ms=ROOMY_MS))
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 1.0)

        await asyncio.wait_for(servicer.cancelled.wait(), 2.0)  # long before its 5 s
        assert client.stats.raised == 1
        assert (await client.rerank("plain", DOCUMENTS, budget_ms=ROOMY_MS)).outcome is Outcome.RANKED
    await server.stop(None)
