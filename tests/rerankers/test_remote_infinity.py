"""The remote pool's arm against a rerank server that this project did not write: infinity, on a local model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.arms import State
from sidecar.rerankers.base import BackendError, ScoreRequest
from sidecar.rerankers.remote import HttpReranker
from sidecar.rerankers.remote_shapes import Api
from tests.helpers import MARKER
from tests.rerankers.local_models import document, settled
from tests.rivals import infinity

pytestmark = pytest.mark.timeout(600)  # setting up takes minutes where it has to be done

QUERY = "read a csv file"
TEXTS = ("csv reader", "?", "x", "threads share memory", "1 2 3", "Ünïcode 如何读取 🙂", "long " * 1_500)


@dataclass(frozen=True, slots=True)
class Infinity:
    """A server, and what its model scores `TEXTS`, computed beside it."""

    url: str
    scores: tuple[float, ...]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infinity]:
    if os.environ.get("MILLIRANK_TEST_RIVALS") == "1":
        infinity.set_up()
    if not infinity.is_set_up():
        pytest.skip("infinity is not set up: make set-up-rivals")
    work: Path = tmp_path_factory.mktemp("infinity")
    scores = infinity.tiny_cross_encoder(work / "model", QUERY, TEXTS)
    with infinity.served(work / "model", work / "log", "--api-key", "key-1") as base_url:
        yield Infinity(f"{base_url}/rerank", tuple(scores))


async def ready(url: str, key: str = "key-1", api: Api = "cohere") -> HttpReranker:
    reranker = HttpReranker("pool", url, key, api=api, model=infinity.MODEL)
    await reranker.start()
    await settled(reranker)
    assert reranker.availability().state is State.READY
    return reranker


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize("api", ["cohere", "jina"])
async def test_scores_are_the_models(server: Infinity, api: Api) -> None:
    """Each document gets the score that transformers compute for it, whatever its length and script, in both dialects
    that infinity understands; and the warm-up has measured it."""
    reranker = await ready(server.url, api=api)
    scored = await reranker.score(ScoreRequest(QUERY, "", list(map(document, TEXTS))), 30.0)
    assert scored.scores == pytest.approx(server.scores, abs=1e-4)
    assert max(server.scores) - min(server.scores) > 0.01, "a model that scores all the same would show nothing"
    assert len(reranker.warm_up_samples()) == 4
    await reranker.close()


async def test_callers_at_once(server: Infinity) -> None:
    """Fourteen lists at the same time, which the server batches together: nobody gets another one's scores."""
    reranker = await ready(server.url)
    turned = [TEXTS[shift:] + TEXTS[:shift] for shift in range(len(TEXTS))] * 2
    requests = [ScoreRequest(QUERY, "", list(map(document, texts))) for texts in turned]
    answers = await asyncio.gather(*(reranker.score(request, 60.0) for request in requests))
    for shift, answer in enumerate(answers):
        cut = shift % len(TEXTS)
        assert answer.scores == pytest.approx(server.scores[cut:] + server.scores[:cut], abs=1e-4)
    await reranker.close()


async def test_wrong_key(server: Infinity) -> None:
    """A server that wants another key is a BackendError with the fix, and without text."""
    reranker = await ready(server.url, key="wrong")
    with pytest.raises(BackendError, match=r"HTTP 40[13]: check") as caught:
        await reranker.score(ScoreRequest(MARKER, "", [document(MARKER)]), 30.0)
    assert MARKER not in str(caught.value)
    await reranker.close()


async def test_wrong_path(server: Infinity) -> None:
    """A URL without the endpoint's path says that it has to be there."""
    reranker = await ready(server.url.removesuffix("/rerank") + "/nowhere")
    with pytest.raises(BackendError, match="HTTP 404: check url"):
        await reranker.score(ScoreRequest(QUERY, "", [document("x")]), 30.0)
    await reranker.close()


async def test_a_budget_that_is_too_small(server: Infinity) -> None:
    """A server that computes for longer than there is time is cut off, and answers the next caller."""
    reranker = await ready(server.url)
    long = [document(f"{number} " + "word " * 1_500) for number in range(60)]
    with pytest.raises(TimeoutError):
        await reranker.score(ScoreRequest(QUERY, "", long), 0.02)
    assert len((await reranker.score(ScoreRequest(QUERY, "", long[:1]), 60.0)).scores) == 1
    await reranker.close()
