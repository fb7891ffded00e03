"""Who may talk to a sidecar over the network: a bearer token, and what carries it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from millirank import AsyncClient, Client, Outcome, Reason
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc

from sidecar.security import SecurityError
from tests.e2e.rpc import TIMEOUT_S, failure_of, message
from tests.e2e.sidecar_process import millirank
from tests.helpers import Rig, ScriptedReranker, rig
from tests.sidecar.secured import TOKEN, Papers, ranked, refusal, tokened


async def test_token_opens_the_service(tmp_path: Path) -> None:
    """A call with the token is answered; a missing, wrong or differently sent one is UNAUTHENTICATED."""
    parts: Rig = rig(ScriptedReranker())
    async with parts.served(tokened(tmp_path)) as (address,):
        assert await ranked(address, None, authorization=f"Bearer {TOKEN}") == [1, 0]
        for wrong in (f"Bearer {TOKEN}x", "Bearer ", TOKEN, f"Basic {TOKEN}"):
            assert await refusal(address, None, authorization=wrong) == "UNAUTHENTICATED"
        assert await refusal(address, None) == "UNAUTHENTICATED"
    points = parts.metrics()["millirank.errors"]
    assert [(p["attributes"]["rpc.grpc.status_code"], p["value"]) for p in points] == [("UNAUTHENTICATED", 5)]


async def test_refusal_says_what_to_send_and_not_what_was_sent(tmp_path: Path) -> None:
    """The message and its details name the metadata and the setting; no token is repeated."""
    async with (
        rig(ScriptedReranker()).served(tokened(tmp_path)) as (address,),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = pb_grpc.RerankServiceStub(channel).Rerank(
            message("red"), timeout=TIMEOUT_S, metadata=(("authorization", "Bearer guessed"),)
        )
        failure = await failure_of(call)
    assert failure.info.reason == "TOKEN_MISSING_OR_WRONG"
    assert "authorization: Bearer TOKEN" in failure.message
    assert "guessed" not in failure.message
    assert TOKEN not in failure.message


async def test_health_needs_no_token_but_reflection_does(tmp_path: Path) -> None:
    """A kubelet has no token; what services there are is nobody's business."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with (
        rig(ScriptedReranker()).served(tokened(tmp_path)) as (address,),
        grpc.aio.insecure_channel(address) as channel,
    ):
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="*")]), timeout=TIMEOUT_S
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listing.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("content", ["", " \n", "two words"])
async def test_unusable_token_stops_the_start(tmp_path: Path, content: str) -> None:
    """An empty token file would let everybody in, or nobody: neither is what was meant."""
    with pytest.raises(SecurityError, match="has to hold one token"):
        async with rig(ScriptedReranker()).served(tokened(tmp_path, content)):
            pass


async def test_client_library_carries_the_token(tmp_path: Path) -> None:
    """`token=` is all that a caller adds; without it every answer is first-stage order that says why."""
    async with rig(ScriptedReranker()).served(tokened(tmp_path)) as (address,):
        async with AsyncClient(address, token=TOKEN) as client:
            assert (await client.rerank("red green", ["blue", "red green"], budget_ms=5000)).outcome is Outcome.RANKED
        async with AsyncClient(address) as client:
            refused = await client.rerank("red green", ["blue", "red green"], budget_ms=5000)
    assert refused.fallback
    assert refused.reasons == (Reason.SIDECAR_ERROR,)
    assert "authorization: Bearer TOKEN" in refused.degradations[0].detail


@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", "s3cr\u00e9t"])
def test_token_that_no_header_can_carry(token: str) -> None:
    """gRPC would refuse every single call for it: the client refuses it once, when it is made, without repeating it."""
    with pytest.raises(ValueError, match="token must be printable ASCII") as caught:
        Client("127.0.0.1:1", token=token)
    assert token.strip() not in str(caught.value)


async def test_commands_reach_a_secured_sidecar(tmp_path: Path) -> None:
    """`rerank`, `explain` and `health` take the authority's certificate, the first two the token as well."""
    papers = Papers(tmp_path)
    listen = papers.listen().model_copy(update={"token_file": tokened(tmp_path).token_file})
    async with rig(ScriptedReranker()).served(listen) as (address,):
        known = ("--target", address, "--ca", str(papers.ca))
        asked = ("--json", *known, "--budget-ms", "5000", "red green")
        texts = '{"text": "blue"}\n{"text": "red green"}\n'
        ranked_ = await asyncio.to_thread(millirank, "rerank", *asked, "--token-file", listen.token_file, text=texts)
        assert ranked_.returncode == 0, ranked_.stderr
        assert [each["id"] for each in json.loads(ranked_.stdout)["results"]] == ["2", "1"]
        health = await asyncio.to_thread(millirank, "health", *known)
        assert (health.returncode, health.stdout) == (0, f"{address}: SERVING\n")
        missing = await asyncio.to_thread(millirank, "rerank", *asked, "--token-file", "missing", text=texts)
        assert missing.returncode == 2
        assert "missing: No such file or directory" in missing.stderr
