"""Fixtures of the Python client's tests: a sidecar that answers as told, and both clients connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from millirank.testing import FakeSidecar
from peers import BOTH


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    """A running sidecar that reverses its candidates until told otherwise."""
    with FakeSidecar() as running:
        yield running


@pytest.fixture(params=BOTH, ids=["sync", "aio"])
def make_client(request: pytest.FixtureRequest) -> Any:
    """Each of the two clients in turn; called like their constructors. The test closes what it makes."""
    return request.param


@pytest.fixture
async def client(make_client: Any, sidecar: FakeSidecar) -> AsyncIterator[Any]:
    """Each of the two clients in turn, connected to ``sidecar``."""
    connected = make_client(sidecar.target)
    assert await connected.wait_until_ready()
    yield connected
    await connected.close()
