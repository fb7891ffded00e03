"""Token vectors on disk, under a real model: found again after a restart, and no reason not to start."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from router.arms import State
from sidecar.rerankers.base import ScoreRequest
from sidecar.rerankers.late_interaction import LateInteraction
from tests.rerankers.local_models import MINILM, QUERY, copy_model, documents, late_interaction, ready, score, until

FILE = "vectors.db"

Start = Callable[..., Awaitable[LateInteraction]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Loaded rerankers that share a file, one after the other: each closes the one before it."""
    current: list[LateInteraction] = []

    async def begin(model: Path = MINILM, *, file: Path = tmp_path / FILE, **options: int) -> LateInteraction:
        for reranker in current:
            await reranker.close()
        current[:] = [late_interaction("li", model, warm_idle=False, vector_file=file, **options)]
        await ready(current[0])
        return current[0]

    yield begin
    for reranker in current:
        await reranker.close()


async def test_a_restart_is_warm(start: Start) -> None:
    """Both sides know at once; no document is encoded again, and the scores are the same to the last bit."""
    before = await start()
    texts = documents(12)
    cold = await score(before, texts)
    after = await start()
    assert after.work(ScoreRequest(QUERY, "", texts)).warm == 12
    warm = await score(after, texts)
    assert (cold.cached, warm.cached, warm.scores) == (0, 12, cold.scores)
    assert warm.tokens < 15, "of the query alone"


def rows(path: Path) -> int:
    """Vectors that other processes can read from the file now."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        return int(reader.execute("SELECT count(*) FROM vectors").fetchone()[0])


async def test_a_killed_child_leaves_a_good_file(start: Start, tmp_path: Path) -> None:
    """A kill in the middle costs at most what was not written yet."""
    reranker = await start()
    texts = documents(12)
    await score(reranker, texts)
    await until(lambda: rows(tmp_path / FILE) >= 8)
    pid = reranker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: reranker.availability().state is State.READY and reranker.pid != pid)
    warm = reranker.work(ScoreRequest(QUERY, "", texts)).warm
    assert warm >= 8
    assert (await score(reranker, texts)).cached == warm


async def test_disk_alone_is_enough(start: Start) -> None:
    """With no memory for vectors every document is read from the file, and none is encoded twice."""
    reranker = await start(vector_bytes=0)
    texts = documents(6)
    cold = await score(reranker, texts)
    warm = await score(reranker, texts)
    assert (warm.cached, warm.scores) == (6, cold.scores)


async def test_other_weights_start_cold(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Changing the model revision, or the truncation, gives no stale hit; the log says that the file was emptied."""
    texts = documents(4)
    await score(await start(), texts)
    other = copy_model(MINILM, tmp_path / "other", change=lambda model: model + b"\x32\x01x")  # its doc_string
    with caplog.at_level(logging.WARNING):
        reranker = await start(other)
    assert reranker.work(ScoreRequest(QUERY, "", texts)).warm == 0
    assert (await score(reranker, texts)).cached == 0
    assert any("another model revision" in record.detail for record in caplog.records)  # type: ignore[attr-defined]
    assert (await start(max_tokens=96)).work(ScoreRequest(QUERY, "", texts)).warm == 0


async def test_a_file_that_cannot_be_used_only_costs_warmth(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """READY all the same, with vectors in memory; the log names the file and the fix."""
    with caplog.at_level(logging.WARNING):
        reranker = await start(file=tmp_path / "nowhere" / "vectors.db")
    texts = documents(3)
    await score(reranker, texts)
    assert (await score(reranker, texts)).cached == 3
    (record,) = [record for record in caplog.records if record.message == "kept vectors"]
    assert "create its folder" in record.detail  # type: ignore[attr-defined]
    assert "in memory only" in record.detail  # type: ignore[attr-defined]
