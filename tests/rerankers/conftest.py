"""The arms that call a server, the stand-ins that they talk to, and a checkpoint to export."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.rerankers import pool as pool_module
from sidecar.rerankers.llm import LlmReranker
from sidecar.rerankers.remote import HttpReranker
from tests.helpers import Clock
from tests.rerankers import tiny_checkpoints
from tests.rerankers.fake_openai import FakeOpenAI
from tests.rerankers.fake_pool import FakePool
from tests.rerankers.llm_cases import until_loaded
from tests.rerankers.remote_cases import loaded


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


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakePool]:
    """A fake pool that scores honestly until told otherwise; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakePool() as fake:
        yield fake


@pytest.fixture
async def remote(pool: FakePool) -> AsyncIterator[HttpReranker]:
    """The arm, ready, with a key."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, "key-1", model="bge"))
    yield reranker
    await reranker.close()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT checkpoint; copy it before changing it."""
    return tiny_checkpoints.make("bert", tmp_path_factory.mktemp("checkpoint") / "bert")


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is looked at often, so that nobody waits for it here."""
    monkeypatch.setattr(pool_module, "LOOK_S", 0.1)
