"""What the HTTP listener takes from one caller and from many, and how requests end there: as over gRPC. Real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time

import aiohttp
import grpc
import pytest

from sidecar import http_server
from sidecar.settings import Limits, Settings
from tests.helpers import MARKER, ScriptedReranker, rig
from tests.sidecar.http_calls import BUDGET, asked, head, post, served, talk
from tests.sidecar.test_memory_bound import RERANK, message

PATIENT = {"X-Millirank-Budget-Ms": "3600000"}
LONG = asked(documents=["red " * 1500])  # 6 kB


# --- what is taken ---------------------------------------------------------------------------------------------------


async def test_body_above_the_wire_limit() -> None:
    """Invariant 10: 413, whatever is in it."""
    async with served(rig(ScriptedReranker())) as url:
        status, answer, _ = await post(url, b" " * 5_000_000)
    assert status == 413
    assert "more than 4194304 bytes" in answer["message"]


async def test_a_million_documents_are_counted_before_they_are_read() -> None:
    """Invariant 10: 400 for 4 MB that hold a million empty documents, in less time than reading them would take."""
    body = b'{"query": "q", "documents": [' + b'"",' * 1_000_000 + b'""]}'
    async with served(rig(ScriptedReranker())) as url:
        started = time.monotonic()
        status, answer, _ = await post(url, body)
        taken_s = time.monotonic() - started
    assert status == 400
    assert "documents: has 1000001 entries; at most 1000" in answer["message"]
    assert taken_s < 1.0


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
async def test_nothing_unfolds(encoding: str) -> None:
    """Invariant 10: a compressed body is 400 before any of it is read, so that none can be a bomb."""
    async with served(rig(ScriptedReranker())) as url:
        bomb = gzip.compress(b" " * 50_000_000)
        status, answer, _ = await post(url, bomb, **{"Content-Encoding": encoding})
    assert (status, answer["message"]) == (400, "content-encoding: is not taken here; send the body as it is")


async def test_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """408 when the body takes longer than anybody waits for a ranking, and the slot is free again."""
    monkeypatch.setattr(http_server, "_BODY_S", 0.2)
    parts = rig(ScriptedReranker(), settings=Settings(limits=Limits(concurrent_requests=1)))
    async with served(parts) as url:
        answer = await talk(url, head(100) + b"{")
        assert answer.startswith("HTTP/1.1 408 ")
        assert "has not arrived within 0.2 s" in answer
        assert (await post(url, asked(), **BUDGET))[0] == 200


async def test_more_requests_than_the_limit() -> None:
    """Invariant 10: 429 for the second of one, while the first is answered."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker, settings=Settings(limits=Limits(concurrent_requests=1)))
    async with served(parts) as url:
        first = asyncio.create_task(post(url, asked(), **{"X-Millirank-Budget-Ms": "3600000"}))
        await reranker.entered.wait()
        status, answer, _ = await post(url, asked(), **BUDGET)
        assert (status, "limits.concurrent_requests" in answer["message"]) == (429, True)
        reranker.gate.set()
        assert (await first)[0] == 200


# --- the memory bound ------------------------------------------------------------------------------------------------


async def test_http_and_grpc_share_one_memory_bound() -> None:
    """While gRPC holds 6 kB of 10, 6 more over HTTP get 429 and 2 are served; afterwards 6 are served as well."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker, settings=Settings(limits=Limits(pending_bytes=10_000)))
    async with parts.served() as (address,), served(parts) as url, grpc.aio.insecure_channel(address) as channel:
        first = asyncio.ensure_future(channel.unary_unary(RERANK)(message(6_000), timeout=20))
        await reranker.entered.wait()
        status, answer, _ = await post(url, LONG, **PATIENT)
        assert (status, "limits.pending_bytes" in answer["message"]) == (429, True)
        small = asyncio.create_task(post(url, asked(), **PATIENT))
        await asyncio.sleep(0.05)
        reranker.gate.set()
        await first
        assert (await small)[0] == 200
        assert (await post(url, LONG, **PATIENT))[0] == 200


async def test_bytes_count_while_they_arrive() -> None:
    """A body that is half there holds what is there, not what it promises; given up, it holds nothing."""
    parts = rig(ScriptedReranker(), settings=Settings(limits=Limits(pending_bytes=10_000)))
    async with parts.served() as (address,), served(parts) as url, grpc.aio.insecure_channel(address) as channel:
        rerank = channel.unary_unary(RERANK)
        host, _, port = url.removeprefix("http://").rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(1_000_000) + b" " * 3_000)
        await asyncio.sleep(0.1)
        await rerank(message(6_000), timeout=20)
        writer.write(b" " * 5_000)
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rerank(message(6_000), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        writer.close()
        await asyncio.sleep(0.1)
        await rerank(message(6_000), timeout=20)


# --- how requests end ------------------------------------------------------------------------------------------------


async def test_caller_that_leaves_stops_the_work() -> None:
    """Invariant 6: a closed connection cancels what was being scored for it."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    async with served(rig(reranker)) as url:
        running = asyncio.create_task(post(url, asked(), **PATIENT))
        await reranker.entered.wait()
        running.cancel()
        async with asyncio.timeout(10):
            while not reranker.cancelled:
                await asyncio.sleep(0.01)


async def test_caller_that_leaves_is_no_error() -> None:
    """Leaving counts as abandoned, not as failed."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    async with served(parts) as url:
        running = asyncio.create_task(post(url, asked(), **PATIENT))
        await reranker.entered.wait()
        running.cancel()
        async with asyncio.timeout(10):
            while not reranker.cancelled:
                await asyncio.sleep(0.01)
    metrics = parts.metrics()
    assert [point["value"] for point in metrics["millirank.abandoned"]] == [1]
    assert "millirank.errors" not in metrics


async def test_cancellation_from_inside_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 2: a stray CancelledError is 500 at once; left alone, the caller would see its connection closed."""
    parts = rig(ScriptedReranker())
    broken = asyncio.CancelledError(MARKER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.pipeline, "rerank", _raising(broken))
        async with served(parts) as url:
            status, answer, _ = await post(url, asked(), **BUDGET)
    assert status == 500
    assert answer["id"] in answer["message"]
    assert MARKER not in json.dumps(answer) + caplog.text
    assert parts.span("POST /v2/rerank").attributes["http.response.status_code"] == 500  # type: ignore[index]


def _raising(error: BaseException):  # type: ignore[no-untyped-def]
    async def rerank(*arguments: object) -> None:
        raise error

    return rerank


async def test_accepted_requests_are_answered_in_the_drain() -> None:
    """Invariant 8: what was accepted before the listener closes is answered; the next connection is refused."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    async with served(rig(reranker), drain_s=10.0) as url:
        running = asyncio.create_task(post(url, asked(), **PATIENT))
        await reranker.entered.wait()
        asyncio.get_running_loop().call_later(0.3, reranker.gate.set)
    assert (await running)[0] == 200
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(url, asked())


async def test_the_drain_ends() -> None:
    """Invariant 8: who hangs does not keep the process: after ``drain_s`` its connection is closed."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    started = time.monotonic()
    async with served(rig(reranker), drain_s=0.3) as url:
        running = asyncio.create_task(post(url, asked(), **PATIENT))
        await reranker.entered.wait()
    assert time.monotonic() - started < 5.0
    with pytest.raises(aiohttp.ClientError):
        await running


async def test_plaintext_off_loopback_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    """As for listen.tcp: it works, as meshes need it, and the log warns and names the setting."""
    for host, warned in (("0.0.0.0", ["listen.http"]), ("127.0.0.1", [])):  # noqa: S104
        caplog.clear()
        with caplog.at_level(logging.WARNING, "millirank.http"):
            async with served(rig(ScriptedReranker()), http=f"{host}:0"):
                pass
        assert [getattr(record, "setting", "") for record in caplog.records] == warned
