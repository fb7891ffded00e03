"""What the operator is told of rerankers in every state, over a real channel."""

from __future__ import annotations

from pathlib import Path

import grpc
from millirank.v1 import admin_service_pb2 as pb
from millirank.v1 import admin_service_pb2_grpc as pb_grpc

from router.arms import Availability, State, Strategy
from sidecar.admin_server import AdminServer
from sidecar.admin_service import AdminService
from sidecar.profile_watch import ProfileWatch
from sidecar.reranker_settings import OnnxCrossEncoder
from tests.helpers import ScriptedReranker, rig


async def test_state_revision_queue_and_reason(tmp_path: Path) -> None:
    """READY has its queue and no reason; the others have their reason; an unknown revision is empty."""
    rerankers = {state.value: ScriptedReranker(state.value, Strategy.CROSS_ENCODER) for state in State}
    for state in State:
        rerankers[state.value].state = Availability(state, "" if state is State.READY else f"why {state.value}")
    configured = {name: OnnxCrossEncoder(model="m") for name in (*rerankers, "disabled")}
    parts = rig(*rerankers.values())
    rerankers["ready"].queue_ms = lambda: 12.5  # type: ignore[method-assign]
    service = AdminService(configured, rerankers, parts.pipeline, ProfileWatch(()))
    server = AdminServer(service, f"unix:{tmp_path}/admin.sock")
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await pb_grpc.AdminServiceStub(channel).ListRerankers(pb.ListRerankersRequest(), timeout=30)
    finally:
        await server.stop()
    told = {each.name: each for each in answer.rerankers}
    assert {name: pb.RerankerState.Name(each.state) for name, each in told.items()} == {
        "ready": "RERANKER_STATE_READY",
        "warming": "RERANKER_STATE_WARMING",
        "circuit_open": "RERANKER_STATE_CIRCUIT_OPEN",
        "off": "RERANKER_STATE_OFF",
        "disabled": "RERANKER_STATE_OFF",
    }
    assert (told["ready"].detail, told["ready"].queue.ToMicroseconds()) == ("", 12_500)
    assert told["ready"].revision == "ready-revision-1"
    assert told["warming"].detail == "why warming"
    assert told["off"].detail == "why off"
    assert (told["disabled"].revision, told["disabled"].detail[:13]) == ("", "switched off ")
