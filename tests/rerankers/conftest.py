"""The LLM arm and the stand-in that it talks to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sidecar.rerankers.llm import LlmReranker
from tests.helpers import Clock
from tests.rerankers.fake_openai import FakeOpenAI
from tests.rerankers.llm_cases import until_loaded


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeOpenAI]:
    """A fake endpoint that grades honestly until told otherwise; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def llm(server: FakeOpenAI) -> AsyncIterator[LlmReranker]:
    """The listwise arm, ready."""
    reranker = await until_loaded(LlmReranker("grader", server.base_url, "gpt-4o-mini", "key-1"))
    yield reranker
    await reranker.close()


@pytest.fixture
async def timed(server: FakeOpenAI, clock: Clock) -> AsyncIterator[LlmReranker]:
    """The same with a clock that stands still."""
    reranker = await until_loaded(LlmReranker("grader", server.base_url, "gpt-4o-mini", clock=clock))
    yield reranker
    await reranker.close()
