"""What the tests of the LLM arm share: requests, and how to wait for what must come in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import pytest

from router.arms import State
from sidecar.rerankers.base import Document, RerankerError, ScoreRequest
from sidecar.rerankers.llm import LlmReranker

SLACK_S = 0.25  # what a loaded two-core machine may add to a time that is asserted
AT_ONCE = 0.5  # seconds within which an answer counts as immediate there


def documents(*texts: str) -> tuple[Document, ...]:
    return tuple(
        Document(str(number), text, blake2b(text.encode("utf-8", "replace"), digest_size=16).digest())
        for number, text in enumerate(texts)
    )


def request_for(query: str, *texts: str, instruction: str = "") -> ScoreRequest:
    return ScoreRequest(query, instruction, documents(*texts))


REQUEST = request_for("red green blue", "red", "green blue", "grey", "red green blue")


async def until_loaded(reranker: LlmReranker) -> LlmReranker:
    """Started, and no longer WARMING."""
    await reranker.start()
    async with asyncio.timeout(30):
        while reranker.availability().state is State.WARMING:
            await asyncio.sleep(0.005)
    return reranker


async def until(condition: Callable[[], bool]) -> None:
    """Fails if ``condition`` does not become true within 5 s."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def failure(call: Awaitable[object], within_s: float) -> BaseException:
    """What ``call`` raises; fails if that comes after ``within_s`` plus slack, or is a timeout before it."""
    started = time.monotonic()
    with pytest.raises((RerankerError, TimeoutError)) as caught:
        await call
    elapsed_s = time.monotonic() - started
    assert elapsed_s < within_s + SLACK_S
    if isinstance(caught.value, TimeoutError):
        assert elapsed_s > within_s - 0.02
    return caught.value
