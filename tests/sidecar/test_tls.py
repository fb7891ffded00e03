"""Who may talk to a sidecar over the network: TLS and client certificates. Real handshakes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import trustme
from pydantic import ValidationError

from sidecar.security import SecurityError, is_loopback
from sidecar.settings import Listen, Tls
from tests.helpers import ScriptedReranker, rig
from tests.sidecar.http_calls import asked, served
from tests.sidecar.secured import Papers, ranked, refusal


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


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
