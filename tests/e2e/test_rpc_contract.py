"""Answers over a real channel, and what else a server has beside them: health, reflection, draining.

The server is the real one, in this process, around a reranker that scores by words in common.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1.rerank_service_pb2_grpc import RerankServiceStub

from sidecar.settings import Listen
from tests.e2e.rpc import FAIL, TEXTS, TIMEOUT_S, connected, failure_of, message, order_of, reasons_of, rerank
from tests.helpers import Rig, ScriptedReranker


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_answer_over_tcp_and_unix_socket(kind: str, tmp_path: Path, parts: Rig) -> None:
    """The same answer over either listener."""
    listen = Listen(tcp="127.0.0.1:0") if kind == "tcp" else Listen(tcp="", unix=str(tmp_path / "m.sock"))
    async with parts.served(listen) as (address,), connected(address) as stub:
        response = await rerank(stub, message(*TEXTS, request_id="mine"))
    assert order_of(response) == [1, 2, 0]
    assert response.request_id == "mine"
    assert response.completeness == pb.COMPLETENESS_FULL
    assert response.decision.reranker == "scripted"


async def test_no_documents_is_ok_and_empty(stub: RerankServiceStub) -> None:
    """Nothing to order is no error."""
    response = await rerank(stub, message())
    assert order_of(response) == []
    assert response.completeness == pb.COMPLETENESS_FULL
    assert response.request_id


async def test_duplicate_ids_come_back_by_index(stub: RerankServiceStub) -> None:
    """Ids may repeat and may be empty: the index tells candidates apart."""
    sent = message()
    for text in TEXTS:
        sent.documents.add(id="same", text=text)
    response = await rerank(stub, sent)
    assert [(result.id, result.index) for result in response.results] == [("same", 1), ("same", 2), ("same", 0)]


async def test_explain_route_decides_without_working(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """The decision with every arm, and the traits; nothing is scored."""
    explained = await stub.ExplainRoute(pb.ExplainRouteRequest(request=message(*TEXTS)), timeout=TIMEOUT_S)
    assert explained.decision.reranker == "scripted"
    assert (explained.decision.planned_k, explained.decision.scored_k) == (3, 0)
    assert (explained.traits.documents, explained.traits.query_words) == (3, 2)
    assert {arm.verdict for arm in explained.decision.considered} == {dpb.VERDICT_CHOSEN, dpb.VERDICT_LOWER_GAIN}
    assert reranker.calls == []


@pytest.mark.parametrize("service", ["", "millirank.v1.RerankService"])
async def test_health_is_serving_from_the_start(address: str, service: str) -> None:
    """Both the whole server and the service are SERVING as soon as the address is known."""
    async with grpc.aio.insecure_channel(address) as channel:
        checked = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S
        )
    assert checked.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_and_describes_the_service(address: str) -> None:
    """A reflection client finds the services, and the full definition of Rerank's messages."""

    def listed() -> tuple[list[str], list[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = list(database.get_services())
            file = database.FindFileContainingSymbol("millirank.v1.RerankService")
            decision = database.FindFileContainingSymbol("millirank.v1.Decision")
            methods = [method.name for service in file.service for method in service.method]
            return services, methods, [each.name for each in decision.message_type]

    services, methods, messages = await asyncio.to_thread(listed)
    assert set(services) == {
        "millirank.v1.RerankService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert methods == ["Rerank", "ExplainRoute"]
    assert "Decision" in messages


async def test_unknown_method(address: str) -> None:
    """A method of another version is UNIMPLEMENTED."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/millirank.v1.RerankService/RerankStream")(b"", timeout=TIMEOUT_S)
        assert (await failure_of(call)).code == "UNIMPLEMENTED"


async def test_draining_server(parts: Rig, reranker: ScriptedReranker) -> None:
    """Invariant 8: while it lingers, health says NOT_SERVING, new calls get first-stage order with DRAINING, and the
    call that was accepted before is answered in full."""
    reranker.gate = asyncio.Event()
    async with parts.served() as (address,), connected(address) as stub, grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        accepted = asyncio.ensure_future(rerank(stub, message(*TEXTS, budget_ms=3_600_000.0)))
        await reranker.entered.wait()
        stopping = asyncio.create_task(parts.servers[0].stop(linger_s=1.0, drain_s=TIMEOUT_S))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        late = await rerank(stub, message(*TEXTS, tenant="late"))
        assert (order_of(late), reasons_of(late)) == ([0, 1, 2], ["DRAINING"])
        failure = await failure_of(rerank(stub, message(*TEXTS, tenant="strict", budget=FAIL)))
        assert (failure.code, failure.info.reason, failure.retry_s) == ("UNAVAILABLE", "DRAINING", 1.0)
        reranker.gate.set()
        assert order_of(await accepted) == [1, 2, 0]
        await stopping
        assert (await failure_of(rerank(stub, message(*TEXTS)))).code == "UNAVAILABLE"
