"""Who may talk to a sidecar over the network: TLS, client certificates, a bearer token. Real handshakes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from millirank import AsyncClient, Client, Outcome, Reason
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc
from pydantic import ValidationError

from sidecar.security import SecurityError, is_loopback
from sidecar.settings import Listen, Tls
from tests.e2e.rpc import TIMEOUT_S, failure_of, message, order_of
from tests.e2e.sidecar_process import millirank
from tests.helpers import Rig, ScriptedReranker, rig
from tests.sidecar.http_calls import asked, served

TOKEN = "s3cret-token"  # noqa: S105


class Papers:
    """A certificate authority, and PEM files of what it issued."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate, self.key, self.ca = (folder / name for name in ("server.pem", "server.key", "ca.pem"))
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue_server()

    def issue_server(self, authority: trustme.CA | None = None) -> None:
        """A new server certificate in the place of the old one."""
        issued = (authority or self.authority).issue_cert("localhost")
        self.replace(self.certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.replace(self.key, issued.private_key_pem.bytes())

    @staticmethod
    def replace(path: Path, content: bytes) -> None:
        """The file with other content, and surely newer than before."""
        later = path.stat().st_mtime + 10 if path.exists() else None
        path.write_bytes(content)
        if later is not None:
            os.utime(path, (later, later))

    def listen(self, *, mutual: bool = False) -> Listen:
        tls = Tls(certificate=str(self.certificate), key=str(self.key), client_ca=str(self.ca) if mutual else "")
        return Listen(tcp="localhost:0", tls=tls)

    def trusting(self, *, certified: bool = False) -> grpc.ChannelCredentials:
        """A client's credentials; ``certified`` ones carry a certificate of their own."""
        own = self.authority.issue_cert("client@example.org") if certified else None
        return grpc.ssl_channel_credentials(
            self.authority.cert_pem.bytes(),
            own.private_key_pem.bytes() if own else None,
            own.cert_chain_pems[0].bytes() if own else None,
        )

    def context(self, *, certified: bool = False) -> ssl.SSLContext:
        """`trusting`, for HTTP."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        if certified:
            self.authority.issue_cert("client@example.org").configure_cert(context)
        return context


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


async def ranked(address: str, credentials: grpc.ChannelCredentials | None, **metadata: str) -> list[int]:
    """The order that a new connection is answered."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    )
    async with channel:
        call = pb_grpc.RerankServiceStub(channel).Rerank(
            message("blue", "red green", budget_ms=1000.0), timeout=TIMEOUT_S, metadata=tuple(metadata.items())
        )
        return order_of(await call)


async def refusal(address: str, credentials: grpc.ChannelCredentials | None, **metadata: str) -> str:
    """The code that a new connection, or a call on it, ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ranked(address, credentials, **metadata)
    return str(caught.value.code().name)


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_tls_serves_who_trusts_it_and_nobody_in_plaintext(papers: Papers) -> None:
    """With a certificate the TCP listener speaks TLS only."""
    async with rig(ScriptedReranker()).served(papers.listen()) as (address,):
        assert await ranked(address, papers.trusting()) == [1, 0]
        assert await refusal(address, None) == "UNAVAILABLE"
        assert await refusal(address, grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())) == "UNAVAILABLE"


async def test_mutual_tls_asks_for_a_certificate_of_its_authority(papers: Papers) -> None:
    """With client_ca only certified clients are served: not one without a certificate, nor one of a stranger's."""
    stranger = trustme.CA().issue_cert("client@example.org")
    pretending = grpc.ssl_channel_credentials(
        papers.authority.cert_pem.bytes(), stranger.private_key_pem.bytes(), stranger.cert_chain_pems[0].bytes()
    )
    async with rig(ScriptedReranker()).served(papers.listen(mutual=True)) as (address,):
        assert await ranked(address, papers.trusting(certified=True)) == [1, 0]
        assert await refusal(address, papers.trusting()) == "UNAVAILABLE"
        assert await refusal(address, pretending) == "UNAVAILABLE"


async def test_rotated_certificate_is_used_without_a_restart(papers: Papers) -> None:
    """A new certificate in the same files serves the next connection, here one of another authority."""
    async with rig(ScriptedReranker()).served(papers.listen()) as (address,):
        assert await ranked(address, papers.trusting()) == [1, 0]
        other = trustme.CA()
        papers.issue_server(other)
        assert await ranked(address, grpc.ssl_channel_credentials(other.cert_pem.bytes())) == [1, 0]


async def test_rotation_half_way_through_keeps_the_old_certificate(papers: Papers) -> None:
    """A file that is missing or empty for a moment refuses nobody."""
    async with rig(ScriptedReranker()).served(papers.listen()) as (address,):
        papers.certificate.write_text("")
        assert await ranked(address, papers.trusting()) == [1, 0]
        papers.key.unlink()
        assert await ranked(address, papers.trusting()) == [1, 0]


async def test_new_certificate_whose_key_is_not_there_yet_refuses_nobody(papers: Papers) -> None:
    """The two files are replaced one after the other: until they belong together, the old pair serves."""
    async with rig(ScriptedReranker()).served(papers.listen()) as (address,):
        old, new = papers.trusting(), trustme.CA()
        key = papers.key.read_bytes()
        papers.issue_server(new)
        new_key = papers.key.read_bytes()
        papers.replace(papers.key, key)
        assert await ranked(address, old) == [1, 0]
        papers.replace(papers.key, new_key)
        assert await ranked(address, grpc.ssl_channel_credentials(new.cert_pem.bytes())) == [1, 0]


async def test_http_follows_rotated_certificates(papers: Papers) -> None:
    """As over gRPC: the next connection is served with the new certificate, and asked for one of the new authority."""
    async with served(rig(ScriptedReranker()), tls=papers.listen(mutual=True).tls) as url:
        url = url.replace("127.0.0.1", "localhost")
        old = papers.context(certified=True)
        assert await status_of(url, old) == 200
        papers.replace(papers.certificate, b"")
        assert await status_of(url, old) == 200, "half-way through"
        papers.authority = trustme.CA()
        papers.issue_server()
        papers.replace(papers.ca, papers.authority.cert_pem.bytes())
        assert await status_of(url, papers.context(certified=True)) == 200
        for stranger in (old, papers.context()):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await status_of(url, stranger)


async def status_of(url: str, context: ssl.SSLContext) -> int:
    """The status that a new connection is answered with."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/rerank", json=asked(), ssl=context) as response,
    ):
        return response.status


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda papers: papers.key.unlink(), r"listen\.tls\.key: .*server\.key can't be read: No such file"),
        (lambda papers: papers.certificate.write_text("x"), r"listen\.tls\.certificate: .* is not a PEM file"),
    ],
)
async def test_unusable_certificate_stops_the_start(papers: Papers, spoil: Callable[[Papers], Any], words: str) -> None:
    """The message names the setting and the file."""
    spoil(papers)
    with pytest.raises(SecurityError, match=words):
        async with rig(ScriptedReranker()).served(papers.listen()):
            pass


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"certificate": "c.pem"}, "certificate and key belong together"),
        ({"key": "k.pem"}, "certificate and key belong together"),
        ({"client_ca": "ca.pem"}, "client_ca needs certificate and key"),
    ],
)
def test_half_of_a_tls_configuration(fields: dict[str, str], words: str) -> None:
    """Settings that belong together are asked for together, before anything is opened."""
    with pytest.raises(ValidationError, match=words):
        Tls(**fields)


async def test_plaintext_off_loopback_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    """Listening on every interface without TLS works, as meshes need it, and the log warns."""
    with caplog.at_level(logging.WARNING, "millirank.server"):
        async with rig(ScriptedReranker()).served(Listen(tcp="0.0.0.0:0")):
            pass
    assert [record.message for record in caplog.records if "plaintext listener off loopback" in record.message]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "millirank.server"):
        async with rig(ScriptedReranker()).served(Listen(tcp="127.0.0.1:0")):
            pass
    assert caplog.records == []


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("[::1]", True),
        ("0.0.0.0", False), ("[::]", False), ("10.0.0.7", False), ("search.internal", False),  # noqa: S104
    ],
)  # fmt: skip
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    """A name that is not known to be this machine's counts as another's."""
    assert is_loopback(host) is loopback


# --- token -----------------------------------------------------------------------------------------------------------


def tokened(folder: Path, content: str = f"{TOKEN}\n") -> Listen:
    path = folder / "token"
    path.write_text(content)
    return Listen(tcp="127.0.0.1:0", token_file=str(path))


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


async def test_commands_reach_a_secured_sidecar(papers: Papers, tmp_path: Path) -> None:
    """`rerank`, `explain` and `health` take the authority's certificate, the first two the token as well."""
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
