"""One sidecar for the faults that it survives without being restarted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.watched import Watched, watched


@pytest.fixture(scope="session")
def shared() -> Iterator[Watched]:
    """A sidecar that every test leaves as it was."""
    with watched() as running:
        yield running
