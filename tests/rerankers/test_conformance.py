"""One contract for every engine that runs a model of its own."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from router.arms import State
from sidecar.rerankers.base import Document, Reranker, ScoreRequest
from tests.rerankers import local_models, texts
from tests.rerankers.conformance_engines import ENGINES, Engine
from tests.rerankers.local_models import QUERY, ready, settled

pytest_plugins = ("tests.rerankers.checkpoints", "tests.rerankers.indexes")
# Importing torch, here and in the child, can take a minute of a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


def parameters(can: Callable[[Engine], bool] = lambda engine: True) -> list[object]:
    """Names of the engines that can."""
    return [pytest.param(name, marks=engine.marks) for name, engine in ENGINES.items() if can(engine)]


# A check without one of these is for every engine.
for_readers_of_text = pytest.mark.parametrize("engine", parameters(lambda engine: engine.reads_text), indirect=True)
for_trained_models = pytest.mark.parametrize("engine", parameters(lambda engine: engine.trained), indirect=True)


@pytest.fixture(params=parameters(), scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine in turn."""
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def folder(engine: Engine, request: pytest.FixtureRequest) -> Path:
    """The engine's model."""
    return _made(engine.model, request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reranker(engine: Engine, folder: Path) -> AsyncIterator[Reranker]:
    """The engine's reranker, loaded once."""
    reranker = engine.make(folder)
    await ready(reranker)
    yield reranker
    await reranker.close()


async def score(reranker: Reranker, documents: Iterable[Document], query: str = QUERY) -> tuple[float, ...]:
    """One score for each document, without hurry."""
    documents = list(documents)
    scored = await local_models.score(reranker, documents, query)
    assert not scored.unscored
    assert len(scored.scores) == len(documents)
    return scored.scores


async def test_scores_follow_the_documents_order(reranker: Reranker, engine: Engine) -> None:
    """scores[i] belongs to documents[i], whatever the lengths: turned around, the scores are turned around."""
    documents = engine.documents(texts.MIXED)
    forward = await score(reranker, documents)
    backward = await score(reranker, documents[::-1])
    assert forward == approximately(backward[::-1], engine)
    spread = min(abs(a - b) for a, b in itertools.combinations(forward, 2))
    assert spread > 2 * engine.tolerance, "different texts must not score the same, or this test sees nothing"


@for_trained_models
async def test_a_matching_document_scores_higher(reranker: Reranker, engine: Engine) -> None:
    """Higher is better."""
    other, matching = await score(reranker, engine.documents([texts.OTHER, texts.MATCHING]))
    assert matching > other


async def test_no_documents(reranker: Reranker) -> None:
    """An empty list is answered with no scores and no model run."""
    scored = await local_models.score(reranker, [])
    assert scored.scores == ()
    assert scored.tokens == 0


async def test_one_document(reranker: Reranker, engine: Engine) -> None:
    """A single document gets a finite score."""
    (only,) = await score(reranker, engine.documents(texts.MIXED[:1]))
    assert math.isfinite(only)


async def test_500_documents_of_mixed_length(reranker: Reranker, engine: Engine) -> None:
    """A list that is longer than one call is answered in order; the same text scores the same anywhere in it."""
    mixed, long = engine.documents(texts.MIXED), engine.documents(texts.LONG)
    scores = await score(reranker, [mixed[i % 5] if i % 50 else long[i // 50] for i in range(500)])
    assert all(map(math.isfinite, scores))
    equal = [scores[position] for position in range(3, 500, 5)]
    assert equal == approximately([equal[0]] * len(equal), engine)


@for_readers_of_text
async def test_a_document_of_1_mb(reranker: Reranker, engine: Engine) -> None:
    """What lies beyond the model's reach changes neither the score nor, noticeably, the time."""
    long = "the csv module reads and writes files " * 27_000
    assert len(long) > 1_000_000
    started = time.monotonic()
    whole, cut = await score(reranker, engine.documents([long, long[:8_192]]))
    assert whole == approximately(cut, engine)
    assert time.monotonic() - started < 3.0, "1 MB takes seconds to tokenise; it must have been cut before"


async def test_a_query_of_2000_characters(reranker: Reranker, engine: Engine) -> None:
    """A query that leaves no room for a document is cut first."""
    scores = await score(reranker, engine.documents(texts.MIXED), query="why " * 500)
    assert all(map(math.isfinite, scores))
    assert len(set(scores)) > 1, "the documents must still be read"


async def test_non_latin_text(reranker: Reranker, engine: Engine) -> None:
    """Any script, emoji and control characters get finite scores, in documents and in queries."""
    for query in texts.NON_LATIN[:2]:
        scores = await score(reranker, engine.documents(texts.NON_LATIN), query=query)
        assert all(map(math.isfinite, scores))


async def test_a_score_does_not_depend_on_its_neighbours(reranker: Reranker, engine: Engine) -> None:
    """A document alone, among others, and asked for again scores the same: to the last bit where batches are single
    texts (invariant 4: the same input gives the same order, and equal documents tie), else within the engine's
    tolerance."""
    documents = engine.documents(texts.MIXED)
    together = await score(reranker, documents)
    # Another digest: vectors that were kept from the first time would make this true of any engine.
    cold = [replace(document, digest=document.digest[::-1]) for document in documents]
    alone = [(await score(reranker, [document]))[0] for document in cold]
    again = await score(reranker, documents)
    assert alone == approximately(together, engine)
    assert again == together


async def test_cancelling_frees_the_caller_and_the_model(reranker: Reranker, engine: Engine) -> None:
    """A cancelled caller returns at once, and no further chunk of its list is sent (invariant 6)."""
    documents = engine.long_list("cancelled")
    before = reranker.work(ScoreRequest(QUERY, "", documents))
    caller = asyncio.create_task(score(reranker, documents))
    await asyncio.sleep(0.1)
    assert not caller.done()
    cancelled_at = time.monotonic()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert time.monotonic() - cancelled_at < 0.1
    await score(reranker, documents[-1:])
    assert reranker.queue_ms(math.inf) == 0.0
    after = reranker.work(ScoreRequest(QUERY, "", documents))
    assert after.warm - before.warm < 150, "the rest of the list was computed for nobody"


async def test_a_timeout_is_kept(reranker: Reranker, engine: Engine) -> None:
    """A list that cannot be scored in time raises TimeoutError at its deadline, or is answered in part before it; and
    the next call is answered."""
    documents = engine.long_list("late")
    started = time.monotonic()
    request = ScoreRequest(QUERY, "", documents)
    if engine.anytime:
        scored = await reranker.score(request, 0.1)
        assert scored.unscored == frozenset(range(len(documents) - len(scored.unscored), len(documents)))
        assert scored.unscored
        assert scored.shortfall
    else:
        with pytest.raises(TimeoutError):
            await reranker.score(request, 0.1)
    assert time.monotonic() - started < 0.3
    await score(reranker, documents[:1])


async def test_no_time_at_all(reranker: Reranker, engine: Engine) -> None:
    """A deadline that has passed is a TimeoutError, not a call."""
    with pytest.raises(TimeoutError):
        await reranker.score(ScoreRequest(QUERY, "", engine.documents(texts.MIXED[:1])), 0.0)


@for_readers_of_text
async def test_work_counts_what_the_model_reads(reranker: Reranker, engine: Engine) -> None:
    """The estimate has one entry per document, stops at the truncation, and is right to a factor of 1.5 in English."""
    prose = "When the program starts, it reads the settings from a file and opens a connection to the server. "
    documents = engine.documents([*(f"{number}: {prose * 3}" for number in range(4)), prose * 500])
    work = reranker.work(ScoreRequest(QUERY, "", documents))
    assert len(work.tokens) == len(documents)
    assert work.tokens[-1] <= 256
    read = (await local_models.score(reranker, documents)).tokens
    assert read / 1.5 < work.tokens_at(len(documents)) < read * 1.5


async def test_warm_up_samples(reranker: Reranker) -> None:
    """A loaded model has measured itself: tokens and milliseconds, both positive, for several sizes."""
    samples = reranker.warm_up_samples()
    assert len({tokens for tokens, _ in samples}) >= 4
    assert all(tokens > 0 and elapsed_ms > 0 for tokens, elapsed_ms in samples)


async def test_the_revision_changes_with_whatever_changes_scores(
    reranker: Reranker, engine: Engine, folder: Path, tmp_path: Path
) -> None:
    """Other truncation, other weights and another tokenizer are other revisions; the same files elsewhere are not."""
    original = reranker.identity.revision
    copy = engine.copy(folder, tmp_path / "copy")
    changed = engine.changed(folder, tmp_path)
    elsewhere, *others = engine.revisions([copy, *changed])
    assert elsewhere == original
    assert len(others) >= 3
    assert len({original, *others}) == 1 + len(others)


async def test_a_model_of_another_kind_is_off(engine: Engine, request: pytest.FixtureRequest) -> None:
    """A folder for something else switches the reranker off and says which."""
    wrong = _made(engine.wrong, request)
    reranker = engine.make(wrong)
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    await reranker.close()
    assert availability.state is State.OFF
    assert str(wrong) in availability.detail


async def test_close_is_idempotent_and_final(engine: Engine, folder: Path) -> None:
    """Closed while it is still loading, twice, and then OFF."""
    reranker = engine.make(folder)
    await reranker.start()
    started = time.monotonic()
    await reranker.close()
    await reranker.close()
    assert time.monotonic() - started < 6.0
    assert reranker.availability().state is State.OFF


def approximately(expected: float | Sequence[float], engine: Engine) -> object:
    """Equal, or within the engine's tolerance."""
    return pytest.approx(expected, rel=0, abs=engine.tolerance)


def _made(model: Path | str, request: pytest.FixtureRequest) -> Path:
    """A model's folder, which may be what a fixture makes."""
    return request.getfixturevalue(model) if isinstance(model, str) else model
