"""The built-in first stage on a collection small enough to work everything out by hand."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sidecar.calibrate.dense_vectors import DenseIndex
from sidecar.calibrate.first_stage import BM25_B, BM25_K1, FirstStage, reciprocal_rank_fusion
from sidecar.calibrate.terms import TermSplitter
from sidecar.embedded import model_dir
from sidecar.engines.manifest import read_manifest
from sidecar.engines.onnx import TokenEncoder


@dataclass(frozen=True, slots=True)
class Doc:
    """A document of a test."""

    id: str
    text: str


TIMER = Doc("threading.Timer", "threading.Timer(interval, function)\nCall a function after some seconds.")
JOIN = Doc("os.path.join", "os.path.join(a, *p)\nJoin two or more pathname components.")
LOOP = Doc("loop", "run_until_complete(future)\nRun the event loop until a Future is done.")
HTTPS = Doc("https", "HTTPSConnection(host)\nTalk to a web server over an encrypted channel.")
BREAD = Doc("bread", "Knead flour, water and yeast, let the dough rise, then bake the loaf.")
COLLECTION = (TIMER, JOIN, LOOP, HTTPS, BREAD)


@pytest.fixture(scope="module")
def stage() -> FirstStage:
    """All five documents, with dense vectors of the embedded encoder."""
    return FirstStage.build(COLLECTION, progress=False)


def ids(stage: FirstStage, query: str, mode: str = "bm25", **options: str) -> list[str]:
    """The ids of all hits, best first."""
    return [hit.id for hit in stage.search(query, 10, mode, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Threads running", ["thread", "run"]),
        ("the and of", []),
        ("threading.Timer", ["threading.timer", "thread", "timer"]),
        ("os.path.join.", ["os.path.join", "os", "path", "join"]),
        ("run_until_complete", ["run_until_complete", "run", "until", "complet"]),
        ("HTTPSConnection", ["httpsconnection", "https", "connect"]),
        ("sha256", ["sha256", "sha", "256"]),
        ("SIGTERM", ["sigterm"]),
        ("__init__", ["__init__", "init"]),
        ("i x 3", []),
        ("café 日本語", ["café", "日本語"]),
    ],
)
def test_terms_are_stems_and_whole_identifiers_and_their_parts(text: str, terms: list[str]) -> None:
    """A word gives its stem; an identifier gives itself and its parts; stop words and single letters nothing."""
    assert TermSplitter().terms(text) == terms


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("threading.Timer", "threading.Timer"),
        ("Timer", "threading.Timer"),
        ("os.path.join", "os.path.join"),
        ("join paths", "os.path.join"),
        ("run_until_complete", "loop"),
        ("complete", "loop"),
        ("HTTPSConnection", "https"),
        ("https connections", "https"),
    ],
)
def test_an_identifier_is_found_whole_and_by_its_parts(stage: FirstStage, query: str, found: str) -> None:
    """The full name, the last part, a word inside it and another form of that word all lead to the document."""
    assert ids(stage, query)[0] == found


def test_bm25_is_lucenes_formula() -> None:
    """idf * tf / (tf + k1 (1 - b + b dl / avgdl)) with idf = ln(1 + (N - df + 0.5) / (df + 0.5))."""
    documents = (Doc("a", "apple apple pear"), Doc("b", "apple"), Doc("c", "plum cherry"))
    hits = FirstStage.build(documents, dense=False, progress=False).search("apples", 10)
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = {
        "a": idf * 2 / (2 + BM25_K1 * (1 - BM25_B + BM25_B * 3 / 2)),
        "b": idf * 1 / (1 + BM25_K1 * (1 - BM25_B + BM25_B * 1 / 2)),
    }
    assert {hit.id: hit.signals["bm25"] for hit in hits} == pytest.approx(expected, rel=1e-5)


def test_bm25_finds_only_documents_that_share_a_term(stage: FirstStage) -> None:
    """No filler: a document without any of the query's terms is no hit, and a query without terms has none."""
    hits = stage.search("bake a loaf", 10)
    assert [hit.id for hit in hits] == ["bread"]
    assert set(hits[0].signals) == {"bm25"}
    assert stage.search("the of", 10) == []
    assert stage.search("zeppelin", 10) == []


def test_ties_keep_the_order_of_the_collection() -> None:
    """Equal scores are ordered by position."""
    documents = [Doc(str(number), "same words") for number in range(5)]
    stage = FirstStage.build(documents, dense=False, progress=False)
    assert ids(stage, "words") == ["0", "1", "2", "3", "4"]
    assert [hit.id for hit in stage.search("words", 2)] == ["0", "1"]


def test_every_hybrid_hit_carries_both_signals(stage: FirstStage) -> None:
    """bm25 is 0.0 where no term matches; dense is the cosine of the encoder's own vectors."""
    query = "prepare a timer for dinner"
    hits = stage.search(query, 10, "hybrid")
    assert {hit.id for hit in hits} == {document.id for document in COLLECTION}
    assert {hit.id for hit in hits if hit.signals["bm25"] > 0} == {"threading.Timer"}
    encoder = TokenEncoder(read_manifest(model_dir("minilm-l6")))
    vector = encoder.encode([query], 48).sentences[0]
    for hit in hits:
        expected = float(encoder.encode([hit.text], 128).sentences[0] @ vector)
        assert hit.signals["dense"] == pytest.approx(expected, abs=1e-5)


def test_a_query_without_a_matching_term_still_has_dense_hits(stage: FirstStage) -> None:
    """What shares no word with the query is found by meaning."""
    hits = stage.search("pastry recipe", 3, "hybrid")
    assert hits[0].id == "bread"
    assert [hit.signals["bm25"] for hit in hits] == [0.0, 0.0, 0.0]


def test_reciprocal_rank_fusion_by_hand() -> None:
    """Sum of 1 / (60 + rank), ranks from 1, over the lists that hold the document."""
    fused = reciprocal_rank_fusion([[7, 3], [3, 5]], [3, 5, 7, 9])
    assert fused == pytest.approx([1 / 62 + 1 / 61, 1 / 62, 1 / 61, 0.0])


def test_hybrid_order_is_rank_fusion_of_both_lists(stage: FirstStage) -> None:
    """BM25 finds only the timer (rank 1 there); the dense list holds all five. Its own rank decides the others."""
    query = "prepare a timer for dinner"
    hits = stage.search(query, 10, "hybrid")
    by_cosine = sorted(hits, key=lambda hit: -hit.signals["dense"])
    scores = {hit.id: 1 / (60 + rank) for rank, hit in enumerate(by_cosine, 1)}
    scores["threading.Timer"] += 1 / 61
    assert [hit.id for hit in hits] == sorted(scores, key=lambda document: -scores[document])
    assert hits[0].id == "threading.Timer"


def test_zscore_fusion_orders_by_the_sum_of_z_scores(stage: FirstStage) -> None:
    """Both signals standardised over the union (population standard deviation), then added."""
    hits = stage.search("join a web server", 10, "hybrid", fusion="zscore")
    columns = [np.array([hit.signals[name] for hit in hits]) for name in ("bm25", "dense")]
    sums = sum((column - column.mean()) / column.std() for column in columns)
    assert len(hits) == 5
    assert list(np.argsort(-sums, kind="stable")) == [0, 1, 2, 3, 4]


def test_mistakes_are_named(stage: FirstStage) -> None:
    """An empty collection, k below 1 and hybrid search without vectors say what to do."""
    with pytest.raises(ValueError, match="documents is empty"):
        FirstStage.build([], dense=False)
    with pytest.raises(ValueError, match="k is 0"):
        stage.search("x", 0)
    with pytest.raises(ValueError, match="dense=True"):
        FirstStage.build(COLLECTION, dense=False).search("timer", 5, "hybrid")


def dense_scores(stage: FirstStage) -> dict[str, float]:
    """The dense signal of every document for one query."""
    return {hit.id: hit.signals["dense"] for hit in stage.search("timer", 10, "hybrid")}


def test_vectors_are_kept_and_not_computed_again(tmp_path: Path, stage: FirstStage) -> None:
    """The second build reads the file of the first: a mark left in it comes back. Other texts get another file."""
    FirstStage.build(COLLECTION, cache_dir=tmp_path, progress=False)
    (kept,) = tmp_path.iterdir()
    with np.load(kept) as archive:
        vectors = archive["vectors"]
    np.savez(kept, vectors=vectors[::-1])
    again = FirstStage.build(COLLECTION, cache_dir=tmp_path, progress=False)
    assert dense_scores(again)["bread"] == pytest.approx(dense_scores(stage)["threading.Timer"], abs=1e-6)
    FirstStage.build(COLLECTION[:2], cache_dir=tmp_path, progress=False)
    FirstStage.build(COLLECTION, dense_max_tokens=32, cache_dir=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Who has warned."""
    return [record.name for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_vectors_are_computed_again(
    tmp_path: Path, stage: FirstStage, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file cut short, one with a changed byte and one with other content are replaced, with a warning."""
    FirstStage.build(COLLECTION, cache_dir=tmp_path, progress=False)
    (kept,) = tmp_path.iterdir()
    content = bytearray(kept.read_bytes())
    match damage:
        case "cut":
            kept.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 2] ^= 0x10
            kept.write_bytes(content)
        case _:
            np.savez(kept, vectors=np.zeros((5, 384), np.float32))
    again = FirstStage.build(COLLECTION, cache_dir=tmp_path, progress=False)
    assert warnings(caplog) == ["sidecar.calibrate.dense_vectors"]
    assert dense_scores(again) == dense_scores(stage)
    FirstStage.build(COLLECTION, cache_dir=tmp_path, progress=False)
    assert len(warnings(caplog)) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


def test_an_unwritable_cache_directory_is_named(tmp_path: Path) -> None:
    """The error says which directory, and which variable moves it."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match="MILLIRANK_CACHE_DIR"):
        FirstStage.build(COLLECTION[:1], cache_dir=blocked, progress=False)


def test_the_graph_of_a_large_collection_finds_what_the_exact_search_finds() -> None:
    """HNSW is approximate: 95 % of the ten nearest of 2,000 clustered vectors at least, in order of exact cosine."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(50, 384))
    vectors = (centres[random.integers(0, 50, 2000)] + random.normal(size=(2000, 384))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, graph = DenseIndex(vectors), DenseIndex(vectors, exact_below=0)
    found = wanted = 0
    for query in vectors[::100]:
        nearest, expected = graph.nearest(query, 10), exact.nearest(query, 10)
        scores = graph.scores(query, nearest)
        assert scores == sorted(scores, reverse=True)
        found += len(set(nearest) & set(expected))
        wanted += len(expected)
    assert found >= 0.95 * wanted
    assert DenseIndex(vectors[:3], exact_below=0).nearest(vectors[0], 10)[0] == 0
