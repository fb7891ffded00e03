"""The memory bound: the only thing that is refused under load, and only for as long as it lasts."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from millirank.v1 import rerank_service_pb2 as pb

from sidecar.errors import DETAILS_KEY
from sidecar.settings import Limits, Settings
from tests.helpers import ScriptedReranker, rig

RERANK = "/millirank.v1.RerankService/Rerank"


def message(characters: int) -> bytes:
    """A request of about that many bytes."""
    request = pb.RerankRequest(query="red", cache_control=pb.CACHE_CONTROL_BYPASS)
    request.routing.reranker = "scripted"
    for _ in range(2):
        request.documents.add(text="red " * (characters // 8))
    return request.SerializeToString()


async def test_what_does_not_fit_is_refused_until_it_fits() -> None:
    """While 6 kB of 10 are under way, 6 more get RESOURCE_EXHAUSTED with RetryInfo and 2 are served; later 6, too."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker, settings=Settings(limits=Limits(pending_bytes=10_000)))
    async with parts.served() as (address,), grpc.aio.insecure_channel(address) as channel:
        rerank = channel.unary_unary(RERANK)
        first = asyncio.ensure_future(rerank(message(6_000), timeout=20))
        await reranker.entered.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rerank(message(6_000), timeout=20)
        small = asyncio.ensure_future(rerank(message(2_000), timeout=20))
        await asyncio.sleep(0.05)
        reranker.gate.set()
        await asyncio.gather(first, small)
        await rerank(message(6_000), timeout=20)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limits.pending_bytes" in str(caught.value.details())
    status = Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "MEMORY_BOUND"
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 100


async def test_a_request_alone_is_served_whatever_its_size() -> None:
    """The bound is about many: what one request may have has limits of its own."""
    parts = rig(ScriptedReranker(), settings=Settings(limits=Limits(pending_bytes=1024)))
    async with parts.served() as (address,), grpc.aio.insecure_channel(address) as channel:
        answer = pb.RerankResponse.FromString(await channel.unary_unary(RERANK)(message(6_000), timeout=20))
    assert answer.completeness == pb.COMPLETENESS_FULL
