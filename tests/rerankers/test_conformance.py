"""One contract for every reranker that runs a model of its own, checked with the embedded models."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from router.arms import State
from sidecar.rerankers.base import Reranker, ScoreRequest
from tests.rerankers.local_models import (
    MINILM,
    PATIENT_S,
    QUERY,
    TINY_CROSS_ENCODER,
    copy_model,
    cross_encoder,
    document,
    documents,
    late_interaction,
    ready,
    score,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

Make = Callable[..., Reranker]
MODELS: dict[str, tuple[Make, Path]] = {
    "late_interaction": (late_interaction, MINILM),
    "cross_encoder": (cross_encoder, TINY_CROSS_ENCODER),
}
MIXED_TEXTS = (
    "csv.reader returns an object that iterates over the lines of a file",
    "",
    "x",
    "A thread can be joined, which waits for its end.",
    "Der Leser öffnet die Datei und liest Zeile für Zeile.",
    "open(path) " * 40,
)
NON_LATIN = ("如何读取 csv 文件", "Как прочитать файл csv", "كيف أقرأ ملف csv", "🙂🙃" * 20, "ไฟล์ csv", "\u0000\u200b")


@pytest_asyncio.fixture(params=MODELS, scope="module", loop_scope="module")
async def reranker(request: pytest.FixtureRequest) -> AsyncIterator[Reranker]:
    """Every local reranker in turn, loaded once for the module."""
    make, folder = MODELS[request.param]
    reranker = make(request.param, folder)
    await ready(reranker)
    yield reranker
    await reranker.close()


async def test_scores_follow_the_documents_order(reranker: Reranker) -> None:
    """scores[i] belongs to documents[i], whatever the lengths: turned around, the scores are turned around."""
    texts = [document(text) for text in MIXED_TEXTS]
    forward = (await score(reranker, texts)).scores
    backward = (await score(reranker, texts[::-1])).scores
    assert forward == backward[::-1]
    assert len(set(forward)) == len(texts), "different texts must not all score the same, or this test sees nothing"


async def test_a_matching_document_scores_higher(reranker: Reranker) -> None:
    """Higher is better."""
    matching = document("How to read a CSV file: open the file and pass it to csv.reader.")
    other = document("The weather in the mountains changes within minutes.")
    scores = (await score(reranker, [other, matching])).scores
    assert scores[1] > scores[0]


async def test_no_documents(reranker: Reranker) -> None:
    """An empty list is answered with no scores and no model run."""
    scored = await score(reranker, [])
    assert scored.scores == ()
    assert scored.tokens == 0


async def test_one_document(reranker: Reranker) -> None:
    """A single document gets a finite score."""
    (only,) = (await score(reranker, [document(MIXED_TEXTS[0])])).scores
    assert math.isfinite(only)


async def test_300_documents_of_mixed_length(reranker: Reranker) -> None:
    """A list that is longer than one call is answered in order; the same text scores the same anywhere in it."""
    texts = [document(MIXED_TEXTS[i % 6] if i % 50 else f"long {i} " + "word " * 2_000) for i in range(300)]
    scores = (await score(reranker, texts)).scores
    assert len(scores) == 300
    assert all(map(math.isfinite, scores))
    assert len({scores[position] for position in range(1, 300, 6) if position % 50}) == 1


async def test_a_document_of_1_mb(reranker: Reranker) -> None:
    """What lies beyond the model's reach changes neither the score nor, noticeably, the time."""
    long = "the csv module reads and writes files " * 27_000
    assert len(long) > 1_000_000
    started = time.monotonic()
    whole, cut = (await score(reranker, [document(long), document(long[:8_192])])).scores
    assert whole == cut
    assert time.monotonic() - started < 3.0, "1 MB takes seconds to tokenise; it must have been cut before"


async def test_a_query_of_2000_characters(reranker: Reranker) -> None:
    """A query that leaves no room for a document is cut first."""
    scores = (await score(reranker, map(document, MIXED_TEXTS), query="why " * 500)).scores
    assert all(map(math.isfinite, scores))
    assert len(set(scores)) > 1, "the documents must still be read"


async def test_non_latin_text(reranker: Reranker) -> None:
    """Any script, emoji and control characters get finite scores, in documents and in queries."""
    for query in NON_LATIN[:2]:
        scores = (await score(reranker, map(document, NON_LATIN), query=query)).scores
        assert all(map(math.isfinite, scores))


async def test_a_score_does_not_depend_on_its_neighbours(reranker: Reranker) -> None:
    """A document alone, among others, and asked for again scores the same to the last bit (invariant 4: the same input
    gives the same order, and equal documents tie)."""
    texts = [document(text) for text in MIXED_TEXTS]
    together = (await score(reranker, texts)).scores
    alone = [(await score(reranker, [text])).scores[0] for text in texts]
    assert tuple(alone) == together


async def test_cancelling_frees_the_caller_and_the_model(reranker: Reranker) -> None:
    """A cancelled caller returns at once, and no further chunk of its list is sent (invariant 6)."""
    texts = documents(1_000, words=150, tag="cancelled")
    caller = asyncio.create_task(score(reranker, texts))
    await asyncio.sleep(0.1)
    assert not caller.done()
    cancelled_at = time.monotonic()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert time.monotonic() - cancelled_at < 0.1
    await score(reranker, texts[-1:])
    assert reranker.queue_ms() == 0.0
    after = reranker.work(QUERY, "", texts)
    assert after.warm < 150, "the rest of the list was computed for nobody"


async def test_a_timeout_is_kept(reranker: Reranker) -> None:
    """A list that cannot be scored in time raises TimeoutError at its deadline, and the next call is answered."""
    texts = documents(1_000, words=150, tag="late")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await reranker.score(ScoreRequest(QUERY, "", texts), 0.1)
    assert time.monotonic() - started < 0.3
    assert len((await score(reranker, texts[:1])).scores) == 1


async def test_no_time_at_all(reranker: Reranker) -> None:
    """A deadline that has passed is a TimeoutError, not a call."""
    with pytest.raises(TimeoutError):
        await reranker.score(ScoreRequest(QUERY, "", documents(1)), 0.0)


async def test_work_counts_what_the_model_reads(reranker: Reranker) -> None:
    """The estimate has one entry per document, stops at the truncation, and is right to a factor of 1.5 in English."""
    prose = "When the program starts, it reads the settings from a file and opens a connection to the server. "
    texts = [document(f"{number}: {prose * 3}") for number in range(4)] + [document(prose * 500)]
    work = reranker.work(QUERY, "", texts)
    assert len(work.tokens) == len(texts)
    assert work.tokens[-1] <= 256
    read = (await score(reranker, texts)).tokens
    assert read / 1.5 < work.tokens_at(len(texts)) < read * 1.5


async def test_warm_up_samples(reranker: Reranker) -> None:
    """A loaded model has measured itself: tokens and milliseconds, both positive, for several sizes."""
    samples = reranker.warm_up_samples()
    assert len({tokens for tokens, _ in samples}) >= 4
    assert all(tokens > 0 and elapsed_ms > 0 for tokens, elapsed_ms in samples)


@pytest.mark.parametrize("name", MODELS)
async def test_the_revision_changes_with_whatever_changes_scores(name: str, tmp_path: Path) -> None:
    """Other truncation and other weights are another revision; the same folder elsewhere is the same one."""
    make, folder = MODELS[name]
    same = make(name, copy_model(folder, tmp_path / "same"))
    shorter = make(name, folder, max_tokens=96)
    other = make(name, copy_model(folder, tmp_path / "other", change=lambda model: model + b"\0"))
    revisions = [make(name, folder).identity.revision] + [r.identity.revision for r in (same, shorter, other)]
    assert revisions[0] == revisions[1]
    assert len(set(revisions)) == 3


@pytest.mark.parametrize("name", MODELS)
async def test_a_model_of_another_kind_is_off(name: str) -> None:
    """A folder for another strategy switches the reranker off at once and says what it holds."""
    make, _ = MODELS[name]
    (wrong,) = [folder for other, (_, folder) in MODELS.items() if other != name]
    reranker = make(name, wrong)
    await reranker.start()
    availability = reranker.availability()
    assert availability.state is State.OFF
    assert str(wrong) in availability.detail
    await reranker.close()


@pytest.mark.parametrize("name", MODELS)
async def test_close_is_idempotent_and_final(name: str) -> None:
    """Closed while it is still loading, twice, and then OFF."""
    make, folder = MODELS[name]
    reranker = make(name, folder)
    await reranker.start()
    started = time.monotonic()
    await reranker.close()
    await reranker.close()
    assert time.monotonic() - started < PATIENT_S / 10
    assert reranker.availability().state is State.OFF
