"""The engine below the local rerankers: threads, batches, manifests, vectors, and the embedded token encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from sidecar.engines.batching import estimated_tokens, max_characters, plan_batches
from sidecar.engines.late_interaction import LateInteractionScorer
from sidecar.engines.manifest import ModelError, Truncation, read_manifest
from sidecar.engines.onnx import PROVIDERS, TokenEncoder, provider_name
from sidecar.engines.threads import usable_cpus
from sidecar.engines.vectors import (
    ENTRY_OVERHEAD,
    QUERY_LEVELS,
    DocumentVectors,
    QueryVectors,
    VectorStore,
    maxsim,
    quantise,
    quantise_query,
)
from sidecar.worker_messages import ScoreLate
from tests.rerankers.local_models import MINILM, copy_model

Floats = NDArray[np.float32]
# An int8 component is off by at most 0.5/127 of the row's largest one.
INT8_DOT = 0.01


@pytest.fixture(scope="module")
def encoder() -> TokenEncoder:
    """The embedded token encoder, one text per run."""
    return TokenEncoder(read_manifest(MINILM), threads=1)


def unit(rows: int, columns: int, seed: int) -> Floats:
    """Random rows of length 1."""
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    unit_rows: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit_rows


@pytest.mark.parametrize(
    ("files", "groups", "quota"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"pod/cpu.max": "max 100000", "pod/box/cpu.max": "100000 100000"}, "0::/pod/box", 1),
        ({"pod/cpu.max": "100000 100000", "pod/box/cpu.max": "max 100000"}, "0::/pod/box", 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", None),
        ({"cpu/box/cpu.cfs_quota_us": "100000", "cpu/box/cpu.cfs_period_us": "100000"}, "4:cpu:/box", 1),
        ({"cpu.max": "10000 100000"}, "0::/", 1),
        ({}, "0::/gone", None),
    ],
    ids=["v2", "v2 no limit", "v2 nested", "v2 above", "v1 no limit", "v1 nested", "less than one", "no files"],
)
def test_usable_cpus(tmp_path: Path, files: dict[str, str], groups: str, quota: int | None) -> None:
    """The smaller of affinity and the tightest quota of the group and those above it, at least 1."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n", encoding="utf-8")
    proc = tmp_path / "proc_cgroup"
    proc.write_text(groups + "\n", encoding="utf-8")
    affinity = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path, proc) == (min(affinity, quota) if quota is not None else affinity)


def test_batches_stay_within_the_token_budget() -> None:
    """Shortest first, rows times the longest row within the budget; a longer text is a batch of its own."""
    assert plan_batches([100, 10, 50, 12, 2000], token_budget=120) == [[1, 3], [2], [0], [4]]
    assert plan_batches([7, 7, 7], token_budget=1) == [[0], [1], [2]]
    assert plan_batches([], token_budget=10) == []


def test_batches_hold_no_more_padding_than_is_allowed() -> None:
    """10 and 12 padded to 12 waste 2 tokens; with 50 as a third row it would be 78, with 50 and 52 only 2."""
    lengths = [50, 10, 52, 12]
    assert plan_batches(lengths, token_budget=1000) == [[1, 3, 0, 2]]
    assert plan_batches(lengths, token_budget=1000, padding=78) == [[1, 3, 0], [2]]
    assert plan_batches(lengths, token_budget=1000, padding=77) == [[1, 3], [0, 2]]
    assert plan_batches(lengths, token_budget=1000, padding=1) == [[1], [3], [0], [2]]


def test_characters_and_token_estimates() -> None:
    """6 characters per token up to 8,192; characters / 4 + 2 tokens up to the truncation."""
    assert max_characters(128) == 768
    assert max_characters(10_000) == 8_192
    assert estimated_tokens("x" * 40, 128) == 12
    assert estimated_tokens("x" * 4_000, 128) == 128


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "poem"}, "poem"),
        ({"max_tokens": None}, "model.json has a bad value"),
        ({"files": {"model.onnx": "0"}}, "names no SHA-256 for tokenizer.json"),
        ({"files": {"../model.onnx": "0"}}, r"names '\.\./model\.onnx'.*its own folder"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"positions": "many"}, "bad value"),
    ],
)
def test_a_bad_manifest_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    """A manifest that cannot be used says which file and which value."""
    folder = copy_model(MINILM, tmp_path / "model")
    data = json.loads((folder / "model.json").read_bytes()) | change
    (folder / "model.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        read_manifest(folder)


def test_a_missing_manifest_or_key_is_named(tmp_path: Path) -> None:
    """No manifest and a manifest without a key are told apart."""
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        read_manifest(tmp_path)
    (tmp_path / "model.json").write_text('{"name": "x"}', encoding="utf-8")
    with pytest.raises(ModelError, match="lacks the key 'kind'"):
        read_manifest(tmp_path)


def test_truncation_leaves_room() -> None:
    """A configured limit must leave something to read and stay within the model's positions."""
    manifest = read_manifest(MINILM)
    assert manifest.truncated(None) == manifest.truncation
    assert manifest.truncated(64) == Truncation(64, manifest.truncation.query_max_tokens)
    for wrong in (7, 513):
        with pytest.raises(ModelError, match=f"max_tokens of minilm-l6 is {wrong}; use 8 to 512"):
            manifest.truncated(wrong)


def test_a_manifest_may_allow_longer_texts(tmp_path: Path) -> None:
    """Where a model states its positions, they are the limit instead of BERT's 512."""
    folder = copy_model(MINILM, tmp_path / "model")
    data = json.loads((folder / "model.json").read_bytes()) | {"positions": 8_192}
    (folder / "model.json").write_text(json.dumps(data), encoding="utf-8")
    manifest = read_manifest(folder)
    assert manifest.truncated(8_192).max_tokens == 8_192
    with pytest.raises(ModelError, match="use 8 to 8192"):
        manifest.truncated(8_193)


def test_the_manifest_states_the_batch(tmp_path: Path) -> None:
    """The engine takes the manifest's budget unless told another; without one, every text is a run of its own."""
    folder = copy_model(MINILM, tmp_path / "model")
    assert TokenEncoder(read_manifest(folder), threads=1).token_budget == 1
    data = json.loads((folder / "model.json").read_bytes()) | {"batch_tokens": 512}
    (folder / "model.json").write_text(json.dumps(data), encoding="utf-8")
    assert TokenEncoder(read_manifest(folder), threads=1).token_budget == 512
    assert TokenEncoder(read_manifest(folder), threads=1, token_budget=64).token_budget == 64


@pytest.mark.parametrize("word", ["cuda", "abacus"])
def test_a_provider_that_is_not_there_is_named(word: str) -> None:
    """Known or not: the message says which providers there are."""
    if PROVIDERS.get(word) in ort.get_available_providers():
        pytest.skip(f"{word} is here")
    with pytest.raises(ModelError, match=f"provider '{word}' is not there: this ONNX Runtime has cpu"):
        TokenEncoder(read_manifest(MINILM), threads=1, provider=word)
    assert provider_name("cpu") == "CPUExecutionProvider"


def test_encoder_shapes_and_order(encoder: TokenEncoder) -> None:
    """Results come in input order with their own token counts, cut to max_tokens, all rows of length 1."""
    texts = ["a much longer text than the others " * 20, "short", "a few words more"]
    encoded = encoder.encode(texts, max_tokens=32)
    assert [len(vectors) for vectors in encoded.vectors] == [32, 3, 6]  # [CLS] and [SEP] are tokens
    assert sum(encoded.lengths) == 41
    assert encoded.sentences.shape == (3, 384)
    for rows in (*encoded.vectors, encoded.sentences):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3)
    np.testing.assert_array_equal(encoder.encode(texts[1:2], 32).sentences[0], encoded.sentences[1])


def test_batches_do_not_change_the_embedded_model(encoder: TokenEncoder) -> None:
    """The embedded model's activations are quantised per token: a batch changes vectors by less than 1e-4."""
    texts = ["short", "a text of a few more words than that", "python " * 60, "12345 !?", "öäü"]
    batched = TokenEncoder(read_manifest(MINILM), threads=1, token_budget=1_024).encode(texts, 64)
    alone = encoder.encode(texts, 64)
    np.testing.assert_allclose(batched.sentences, alone.sentences, atol=1e-4)
    for one, other in zip(batched.vectors, alone.vectors, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_maxsim_by_hand() -> None:
    """Mean over query tokens of the best document token."""
    query = QueryVectors(
        np.array([[2, 0], [0, 1]], np.float32), np.array([0.5, 1], np.float32), np.zeros(1, np.float32)
    )
    first = DocumentVectors(
        np.array([[127, 0], [0, 127]], np.int8), np.array([1 / 127, 0.5 / 127], np.float32), np.zeros(1, np.float16)
    )
    second = DocumentVectors(np.array([[-127, 0]], np.int8), np.array([1 / 127], np.float32), np.zeros(1, np.float16))
    assert maxsim(query, [first, second]).tolist() == pytest.approx([0.75, -0.5])


def test_maxsim_agrees_with_floats() -> None:
    """The flat int8 product is the plain float32 formula to within the rounding, also across blocks of documents."""
    query, sentence = unit(9, 128, seed=0), unit(1, 384, seed=0)[0]
    floats = [unit(3 + seed % 40, 128, seed) for seed in range(1, 61)]
    expected = [float((query @ tokens.T).max(axis=1).mean()) for tokens in floats]
    kept = [quantise(tokens, sentence) for tokens in floats]
    assert maxsim(quantise_query(query, sentence), kept).tolist() == pytest.approx(expected, abs=INT8_DOT)


@pytest.mark.parametrize("query_tokens", [1, 3, 8, 12, 16, 33, 48])
def test_maxsim_does_not_depend_on_position(query_tokens: int) -> None:
    """A document's MaxSim is the same to the last bit wherever it stands and whatever stands beside it."""
    random = np.random.default_rng(0)
    sentence = unit(1, 384, 0)[0]
    query = quantise_query(unit(query_tokens, 128, 1), sentence)
    kept = [quantise(unit(1 + 7 * seed % 128, 128, seed), sentence) for seed in range(60)]
    alone = np.concatenate([maxsim(query, [entry]) for entry in kept])
    for _ in range(20):
        chosen = random.permutation(60)[: random.integers(1, 60)]
        np.testing.assert_array_equal(maxsim(query, [kept[i] for i in chosen]), alone[chosen])


def test_products_of_whole_numbers_stay_exact() -> None:
    """The largest possible sum of products is still below the first whole number that float32 cannot hold."""
    dimensions = read_manifest(MINILM).token_dim
    assert dimensions * QUERY_LEVELS * 127 < 2**24


def test_quantised_zero_vectors_stay_zero() -> None:
    """A token vector of zeros neither divides by zero nor turns into something."""
    kept = quantise(np.zeros((2, 4), np.float32), np.zeros(3, np.float32))
    assert not kept.tokens.any()
    assert np.isfinite(kept.scales).all()


def test_the_store_forgets_the_least_recently_used() -> None:
    """Bounded by bytes; what was read last stays; an entry beyond the bound is not kept at all."""
    entry = quantise(unit(10, 128, 0), unit(1, 384, 0)[0])
    assert entry.size_bytes == 10 * 128 + 10 * 4 + 384 * 2 + ENTRY_OVERHEAD
    store = VectorStore(max_bytes=2 * entry.size_bytes)
    assert store.put(b"a", entry) == []
    assert store.put(b"b", entry) == []
    assert store.get(b"a") is entry
    assert store.put(b"c", entry) == [b"b"]
    assert store.get(b"b") is None
    assert store.put(b"a", entry) == [], "putting it again must not count it twice"
    assert store.size_bytes == 2 * entry.size_bytes
    assert VectorStore(max_bytes=100).put(b"x", entry) == [b"x"]


def test_warm_equals_cold(encoder: TokenEncoder) -> None:
    """Kept vectors give the score that the document had when it was encoded."""
    scorer = LateInteractionScorer(encoder, Truncation(64, 48), vector_bytes=1 << 20)
    texts = [(bytes([number]), f"document {number} about files " * (1 + number)) for number in range(20)]
    cold = scorer.score("reading files", texts)
    warm = scorer.score("reading files", [(digest, None) for digest, _ in texts])
    assert (cold.warm, warm.warm) == (0, 20)
    assert warm.tokens == 0, "the query is kept as well"
    assert warm.scores == cold.scores


def test_int8_vectors_are_close_to_float(encoder: TokenEncoder) -> None:
    """Scores over kept int8 and float16 vectors are within 0.005 of those over the model's float32 vectors."""
    texts = [f"document {number} about " + ("threads " if number % 2 else "files ") * number for number in range(1, 20)]
    query = encoder.encode(["reading files"], 48)
    floats = encoder.encode(texts, 64)
    dots = [(query.vectors[0] @ tokens.T).max(axis=1).mean() for tokens in floats.vectors]
    ratio = encoder.manifest.maxsim_ratio
    expected = 0.5 * floats.sentences @ query.sentences[0] + 0.5 * ratio * np.array(dots)
    scorer = LateInteractionScorer(encoder, Truncation(64, 48), vector_bytes=1 << 20)
    scored = scorer.score("reading files", [(text.encode(), text) for text in texts])
    np.testing.assert_allclose(scored.scores, expected, atol=0.005)


def test_what_is_missing_is_named(encoder: TokenEncoder) -> None:
    """Without text and without kept vectors nothing is computed, and the positions come back."""
    scorer = LateInteractionScorer(encoder, Truncation(64, 48), vector_bytes=1 << 20)
    result = scorer.score("a query", [(b"1", "text"), (b"2", None), (b"3", None)])
    assert result.missing == (1, 2)
    assert (result.scores, result.tokens, result.change.added) == ((), 0, ())


def test_a_document_that_occurs_twice_is_encoded_once(encoder: TokenEncoder) -> None:
    """Equal digests share one model run and one score."""
    scorer = LateInteractionScorer(encoder, Truncation(64, 48), vector_bytes=1 << 20)
    scorer.score("a query", [(b"other", "text")])
    result = scorer.score("a query", [(b"1", "text")] * 5)
    assert result.tokens == 3
    assert len(set(result.scores)) == 1


def test_lists_that_are_scored_together_get_what_each_gets_alone(encoder: TokenEncoder) -> None:
    """Same scores; a document that is cold in two lists is read once, for the first; what is kept is told once; and who
    lacks a text is told so without holding up the others."""
    together = LateInteractionScorer(encoder, Truncation(64, 48), vector_bytes=1 << 20)
    alone = LateInteractionScorer(encoder, Truncation(64, 48), vector_bytes=1 << 20)
    lists = [
        ScoreLate("reading files", ((b"1", "about files"), (b"2", "about threads"))),
        ScoreLate("lacking", ((b"9", None),)),
        ScoreLate("running threads", ((b"2", "about threads"), (b"3", "of a text that is new"))),
    ]
    results = together.score_lists(lists)
    expected = [alone.score(each.query, each.documents) for each in lists]
    assert [(each.scores, each.missing, each.tokens) for each in results] == [
        (each.scores, each.missing, each.tokens) for each in expected
    ]
    assert [each.warm for each in results] == [0, 0, 0], "what was encoded in the same call was not kept before"
    assert [each.change.added for each in results] == [(b"1", b"2", b"3"), (), ()]


def test_onnx_runtime_reports_nothing_home(tmp_path: Path) -> None:
    """Invariant 12: loading the engine leaves no device id, no session file, nothing, in temporary folder or home."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import sidecar.engines.onnx"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
