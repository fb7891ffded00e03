"""Late interaction: what is warm, on both sides of the pipe, and warming on idle time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import pytest_asyncio

from router.arms import State
from sidecar.rerankers.base import Document, ScoreRequest
from sidecar.rerankers.late_interaction import REMEMBERED_DOCUMENTS, LateInteraction
from tests.rerankers.local_models import MINILM, QUERY, documents, late_interaction, ready, score, until

Start = Callable[..., Awaitable[LateInteraction]]
SMALL_STORE = 40_000  # room for about 10 documents of 15 tokens


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Loaded rerankers with the options given; no idle warming unless asked for. Closed afterwards."""
    started: list[LateInteraction] = []

    async def begin(*, vector_bytes: int = 1 << 24, warm_idle: bool = False) -> LateInteraction:
        reranker = late_interaction("li", MINILM, vector_bytes=vector_bytes, warm_idle=warm_idle)
        started.append(reranker)
        await ready(reranker)
        return reranker

    yield begin
    for reranker in started:
        await reranker.close()


def warm(reranker: LateInteraction, texts: Sequence[Document]) -> int:
    """How many of the documents this side believes to be warm."""
    return reranker.work(ScoreRequest(QUERY, "", texts)).warm


async def test_scored_documents_are_warm(start: Start) -> None:
    """Scoring keeps the vectors: the second time costs next to nothing and no model run, and scores the same."""
    reranker = await start()
    texts = documents(12)
    assert reranker.work(ScoreRequest(QUERY, "", texts)).warm == 0
    cold = await score(reranker, texts)
    work = reranker.work(ScoreRequest(QUERY, "", texts))
    assert (work.warm, work.tokens, work.fixed_tokens) == (12, (1, *[0] * 11), 0)
    assert reranker.work(ScoreRequest("a question nobody has asked", "", texts)).fixed_tokens > 0
    again = await score(reranker, texts)
    assert (cold.cached, again.cached, again.tokens) == (0, 12, 0)
    assert again.scores == cold.scores


async def test_the_mirror_is_exact(start: Start) -> None:
    """What this side believes to be warm is warm in the child, although documents are evicted all the time."""
    reranker = await start(vector_bytes=SMALL_STORE)
    texts = documents(30)
    for first in (0, 4, 8, 2, 20, 12, 26, 0):
        chunk = texts[first : first + 4]
        expected = warm(reranker, chunk)
        assert (await score(reranker, chunk)).cached == expected
    assert 0 < reranker.warm_documents < 30, "the store must have been too small for all of them"


async def test_a_store_of_no_bytes_keeps_nothing(start: Start) -> None:
    """Late interaction works without a store; everything is cold every time."""
    reranker = await start(vector_bytes=0)
    texts = documents(3)
    await score(reranker, texts)
    assert warm(reranker, texts) == 0
    assert len((await score(reranker, texts)).scores) == 3


async def test_documents_evicted_while_the_call_waited_are_sent_again(start: Start) -> None:
    """A call that was sent by digest and finds its documents evicted is repeated with the texts."""
    reranker = await start(vector_bytes=SMALL_STORE)
    texts = documents(4)
    before = (await score(reranker, texts)).scores
    assert warm(reranker, texts) == 4
    evicting = asyncio.create_task(score(reranker, documents(20, tag="other")))
    await asyncio.sleep(0)
    after = await score(reranker, texts)
    await evicting
    assert after.cached == 0, "they must have been gone, or this test sees nothing"
    assert after.scores == before


async def test_a_late_answer_still_counts(start: Start) -> None:
    """The caller has given up, but what the child computed is warm on both sides."""
    reranker = await start()
    texts = documents(4, words=200)
    with pytest.raises(TimeoutError):
        await reranker.score(ScoreRequest(QUERY, "", texts), 0.005)
    await until(lambda: warm(reranker, texts) == 4, within_s=10.0)
    assert (await score(reranker, texts)).cached == 4


async def test_a_new_child_is_cold(start: Start) -> None:
    """The vectors die with the child, and this side knows."""
    reranker = await start()
    texts = documents(4)
    await score(reranker, texts)
    pid = reranker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: reranker.availability().state is State.READY and reranker.pid != pid)
    assert warm(reranker, texts) == 0
    assert (await score(reranker, texts)).cached == 0


async def test_remembered_documents_are_warmed_on_idle_time(start: Start) -> None:
    """Documents that nobody scored become warm by themselves, and then cost no model run."""
    reranker = await start(warm_idle=True)
    texts = documents(8)
    reranker.remember(texts)
    await until(lambda: warm(reranker, texts) == 8, within_s=20.0)
    assert reranker.remembered_documents == 0
    assert (await score(reranker, texts)).cached == 8


async def test_requests_go_before_warming(start: Start) -> None:
    """A request that comes while documents are being warmed waits for one of them at most."""
    reranker = await start(warm_idle=True)
    mine = documents(1, tag="mine")
    await score(reranker, mine)
    reranker.remember(documents(40, words=120))
    await until(lambda: reranker.warm_documents >= 3, within_s=20.0)
    before = reranker.warm_documents
    await score(reranker, mine)
    assert reranker.warm_documents - before <= 1


async def test_warming_can_be_switched_off(start: Start) -> None:
    """Without warm_idle nothing is remembered."""
    reranker = await start(warm_idle=False)
    reranker.remember(documents(8))
    assert reranker.remembered_documents == 0


async def test_remembering_is_bounded() -> None:
    """The queue keeps the newest documents and nothing twice."""
    reranker = late_interaction("li", MINILM)
    texts = documents(REMEMBERED_DOCUMENTS + 100, words=0)
    reranker.remember(texts)
    reranker.remember(texts[-10:])
    assert reranker.remembered_documents == REMEMBERED_DOCUMENTS


async def test_warming_survives_the_child(start: Start) -> None:
    """A child that dies over a document being warmed costs this document, not the warming."""
    reranker = await start(warm_idle=True)
    pid = reranker.pid
    assert pid is not None
    reranker.remember(documents(30, words=120))
    await until(lambda: reranker.warm_documents >= 1, within_s=20.0)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: reranker.pid != pid and reranker.warm_documents >= 2, within_s=30.0)
