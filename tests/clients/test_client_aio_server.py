"""Both clients against a grpc.aio server that implements RerankService by hand, as a real sidecar does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from millirank import InvalidRequestError, Outcome, Reason
from millirank.v1 import decision_pb2, rerank_service_pb2_grpc
from millirank.v1 import rerank_service_pb2 as pb
from peers import DOCUMENTS, TOLERANCE_MS


class ByHand(rerank_service_pb2_grpc.RerankServiceServicer):
    """Does what the query says."""

    async def Rerank(  # the generated name
        self, request: pb.RerankRequest, context: grpc.aio.ServicerContext
    ) -> pb.RerankResponse:
        count = len(request.documents)
        if request.query == "slow":
            await asyncio.sleep(5)
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
        ("slow", Outcome.FIRST_STAGE, [0, 1, 2, 3], (Reason.SIDECAR_TIMEOUT,)),
        ("bug", Outcome.FIRST_STAGE, [0, 1, 2, 3], (Reason.SIDECAR_ERROR,)),
        ("garbage", Outcome.FIRST_STAGE, [0, 1, 2, 3], (Reason.SIDECAR_ERROR,)),
    ],
)
async def test_every_behaviour_has_its_outcome(
    by_hand: Any, query: str, outcome: Outcome, order: list[int], reasons: tuple[Reason, ...]
) -> None:
    """Ranked, partial, slow, failing and nonsensical answers, each in time."""
    started = time.monotonic()
    ranking = await by_hand.rerank(query, DOCUMENTS, budget_ms=50)
    waited_ms = (time.monotonic() - started) * 1e3

    assert (ranking.outcome, ranking.reasons) == (outcome, reasons)
    assert [entry.index for entry in ranking] == order
    assert waited_ms <= 50 + TOLERANCE_MS


async def test_a_refused_request_is_raised(by_hand: Any) -> None:
    """INVALID_ARGUMENT without details still is the caller's mistake."""
    with pytest.raises(InvalidRequestError, match="refused"):
        await by_hand.rerank("refused", DOCUMENTS)


async def test_the_decision_is_explained(by_hand: Any) -> None:
    """ExplainRoute over the generated servicer."""
    decision = await by_hand.explain("why", DOCUMENTS)
    assert (decision.id, decision.planned_k) == ("why", 4)
