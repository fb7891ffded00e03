"""Requests for the remote pool's arm, and what its tests wait for and expect."""

from __future__ import annotations

import asyncio
import time

import pytest

from sidecar.rerankers.base import (
    RerankerError,
    ScoreRequest,
)
from sidecar.rerankers.remote import HttpReranker
from tests.rerankers.fake_pool import FakePool
from tests.rerankers.local_models import document, settled

SLACK_S = 0.25  # what a loaded two-core machine may add to a time that is asserted
AT_ONCE = 0.5  # seconds within which an answer counts as immediate there
TEXTS = ("red", "green blue", "grey", "red green blue")


def request_for(query: str, *texts: str) -> ScoreRequest:
    return ScoreRequest(query, "", [document(text) for text in texts])


REQUEST = request_for("red green blue", *TEXTS)


async def loaded(pool: FakePool, reranker: HttpReranker) -> HttpReranker:
    """Started, no longer WARMING, and what the warm-up has asked forgotten."""
    await reranker.start()
    await settled(reranker)
    pool.received.clear()
    return reranker


async def failure(call: asyncio.Future[object] | object, within_s: float) -> BaseException:
    """What ``call`` raises; fails if that comes after ``within_s`` plus slack, or is a timeout before it."""
    started = time.monotonic()
    with pytest.raises((RerankerError, TimeoutError)) as caught:
        await call  # type: ignore[misc]
    elapsed_s = time.monotonic() - started
    assert elapsed_s < within_s + SLACK_S
    if isinstance(caught.value, TimeoutError):
        assert elapsed_s > within_s - 0.02
    return caught.value
