"""A bearer token: sent with every call, and never over a network in plain text."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from millirank.testing import FakeSidecar
from peers import DOCUMENTS, ROOMY_MS

TOKEN = "s3cret"  # noqa: S105
NETWORK = "192.0.2.7:50051"
"""An address that is nobody's (RFC 5737)."""


async def test_every_call_carries_it(make_client: Any, sidecar: FakeSidecar) -> None:
    """`authorization: Bearer ...`, for rerank and explain; loopback needs no TLS."""
    client = make_client(sidecar.target, token=TOKEN)
    await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)
    await client.explain("query", DOCUMENTS, timeout_ms=ROOMY_MS)
    await client.close()

    assert [each["authorization"] for each in sidecar.metadata] == [f"Bearer {TOKEN}"] * 2


@pytest.mark.parametrize("target", ["sidecar.example:50051", NETWORK, "dns:///sidecar:50051", "127.0.0.1.example:1"])
async def test_plain_text_over_a_network_is_refused(make_client: Any, target: str) -> None:
    """The error names the target and the fix, and does not repeat the token; with TLS the same target is fine."""
    with pytest.raises(ValueError, match="in plain text; pass credentials=") as caught:
        make_client(target, token=TOKEN)
    assert target in str(caught.value)
    assert TOKEN not in str(caught.value)

    await make_client(NETWORK, token=TOKEN, credentials=grpc.ssl_channel_credentials()).close()


@pytest.mark.parametrize(
    "target", ["unix:/run/m.sock", "unix:relative.sock", "localhost:1", "dns:///localhost:1", "[::1]:1"]
)
async def test_this_machine_needs_no_tls(make_client: Any, target: str) -> None:
    """Nothing that is sent to a Unix socket or to loopback passes a network."""
    await make_client(target, token=TOKEN).close()


@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", "s3crét", "\n"])
def test_what_no_header_carries_is_refused(make_client: Any, token: str) -> None:
    """A token as it is read from a file, with its line end, would fail every call: said at once."""
    with pytest.raises(ValueError, match="line end"):
        make_client("127.0.0.1:1", token=token)
