"""A network between client and sidecar that is slow, swallows everything, or resets connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from millirank import Client, Outcome, Reason

from tests.faults.proxy import FaultProxy, Weather
from tests.faults.watched import ROOMY_MS, Watched, until

BUDGET_MS = 100.0
# 60 KB take more than a second through the slow network, and gRPC's window holds them all.
LONG = [f"passage {number} " + "about rivers and bridges " * 120 for number in range(20)]
# The defaults, a ping after 30 s and 5 s of patience, in less time than a test may take.
_KEEPALIVE = tuple(
    (f"grpc.{name}_ms", value)
    for name, value in (("keepalive_time", 1000), ("keepalive_timeout", 2000), ("http2.ping_timeout", 2000))
)


@pytest.fixture
def through(shared: Watched) -> Iterator[tuple[Watched, FaultProxy]]:
    """The shared sidecar, reached through a proxy."""
    with FaultProxy(shared.sidecar.addresses[0]) as proxy, Client(proxy.target, options=_KEEPALIVE) as client:
        running = replace(shared, client=client)
        assert running.ask().outcome is Outcome.RANKED
        yield running, proxy


def test_slow_network(through: tuple[Watched, FaultProxy]) -> None:
    """Invariant 1: a request that takes longer than the budget to arrive costs the budget; a patient one is ranked."""
    running, proxy = through
    proxy.weather = Weather.SLOW
    hurried = running.ask(LONG, BUDGET_MS)
    assert (hurried.outcome, hurried.reasons) == (Outcome.FIRST_STAGE, (Reason.SIDECAR_TIMEOUT,))
    # Longer than keepalive is patient: a connection that is slow is not taken for one that is dead.
    assert running.ask(LONG).outcome is not Outcome.FIRST_STAGE
    proxy.weather = Weather.FAIR
    running.settled()


def test_half_open_connection(through: tuple[Watched, FaultProxy]) -> None:
    """Invariant 1: bytes go nowhere and nobody says so: every call is answered at its budget. The client's keepalive
    notices, and connects anew."""
    running, proxy = through
    proxy.weather = Weather.SILENT
    for _ in range(5):
        answer = running.ask(budget_ms=BUDGET_MS)
        assert answer.outcome is Outcome.FIRST_STAGE
        assert answer.reasons in {(Reason.SIDECAR_TIMEOUT,), (Reason.SIDECAR_UNAVAILABLE,)}
    proxy.weather = Weather.FAIR
    until(lambda: running.ask(budget_ms=1000.0).outcome is Outcome.RANKED, "the client has connected anew")
    running.settled()


def test_connections_that_are_reset(through: tuple[Watched, FaultProxy]) -> None:
    """A reset in mid-call is a fallback at once, not at the budget; later calls connect again by themselves."""
    running, proxy = through
    proxy.weather = Weather.RESET
    for _ in range(5):
        started = time.monotonic()
        answer = running.ask(budget_ms=ROOMY_MS)
        assert (answer.outcome, answer.fallback) == (Outcome.FIRST_STAGE, True)
        assert time.monotonic() - started < ROOMY_MS / 1e3 / 4
    proxy.weather = Weather.FAIR
    until(lambda: running.ask(budget_ms=1000.0).outcome is Outcome.RANKED, "the client has connected anew")
    assert proxy.connections > 1
    running.settled()
