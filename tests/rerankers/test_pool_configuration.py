"""Settings of a model on a pool: what is accepted, and how what is not is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.arms import Strategy
from sidecar.pool_addresses import target_of
from sidecar.pool_channel import PoolChannel
from sidecar.reranker_settings import PoolCrossEncoder, PoolLateInteraction
from sidecar.rerankers.pool import PoolRefusedError
from sidecar.settings import SettingsError, load

PREFIX = "MILLIRANK_RERANKERS__BGE__"


def settings(**values: object) -> dict[str, str]:
    """The environment that configures one pooled cross-encoder named bge."""
    table = {"strategy": "cross_encoder", "engine": "grpc", **values}
    return {
        PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value) for name, value in table.items()
    }


def test_a_cross_encoder_on_a_pool() -> None:
    """Addresses are all that is needed."""
    configured = load(None, settings(addresses=["10.0.0.7:9000", "10.0.0.8:9000"])).rerankers["bge"]
    assert isinstance(configured, PoolCrossEncoder)
    assert configured.addresses == ("10.0.0.7:9000", "10.0.0.8:9000")


def test_late_interaction_on_a_pool() -> None:
    """The strategy is what the pool's model implements."""
    configured = load(None, settings(strategy="late_interaction", addresses=["pool:9000"])).rerankers["bge"]
    assert isinstance(configured, PoolLateInteraction)


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ([], "at least 1 item"),
        (["pool"], "'pool' is no host:port"),
        (["http://pool:9000"], "no host:port"),
        (["pool:0"], "no host:port"),
        (["one:9000", "two:9000"], "one DNS name that resolves to all of them"),
        (["10.0.0.7:9000", "[::1]:9000"], "all be IPv4, or all be IPv6"),
    ],
)
def test_addresses_that_cannot_be_called(addresses: list[str], words: str) -> None:
    """The message names the setting and the fix."""
    with pytest.raises(SettingsError, match=r"rerankers\.bge\.addresses") as caught:
        load(None, settings(addresses=addresses))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        (["pool.example:9000"], "dns:///pool.example:9000"),
        (["10.0.0.7:9000"], "ipv4:10.0.0.7:9000"),
        (["10.0.0.7:9000", "10.0.0.8:9001"], "ipv4:10.0.0.7:9000,10.0.0.8:9001"),
        (["[::1]:9000", "[::2]:9000"], "ipv6:[::1]:9000,[::2]:9000"),
    ],
)
def test_what_grpc_calls(addresses: list[str], target: str) -> None:
    """A name is resolved by gRPC, again and again; addresses are taken as they are."""
    assert target_of(addresses) == target


async def test_a_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    """The arm is refused with the file's name."""
    missing = tmp_path / "ca.pem"
    with pytest.raises(PoolRefusedError, match=str(missing)):
        PoolChannel(["10.0.0.7:9000"], "bge", Strategy.CROSS_ENCODER, ca_file=str(missing))
