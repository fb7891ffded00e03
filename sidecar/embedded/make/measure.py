"""Measures both models on a folder of collections and words the result for the cards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sidecar.embedded.make import minilm, network, report
from sidecar.embedded.make.card import EVALUATE
from sidecar.embedded.make.encode import Advance, Encoded, OnnxModel, TextTokenizer, encode
from sidecar.embedded.make.evaluate import USUAL_K, Floats, Measured, compare, ndcg
from sidecar.embedded.make.features import Candidates, Collection, CollectionError, candidates_of, cross_encode
from sidecar.embedded.make.files import QUERY_MAX_TOKENS
from sidecar.embedded.make.teacher import maxsim_of
from sidecar.embedded.make.workshop import CROSS_ENCODER_MAX_TOKENS, Workshop


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a collection is used."""

    queries: int
    documents: int


def measure(shop: Workshop, folder: Path, limits: Limits, exact: frozenset[str]) -> dict[str, str]:
    """Markdown for each model's card. Collections named in `exact` are measured in float32 too.

    Raises CollectionError when `folder` has no collection, or none of a name in `exact`.
    """
    folders = sorted(path for path in folder.iterdir() if (path / "corpus.jsonl").exists()) if folder.is_dir() else []
    if not folders:
        raise CollectionError(f"{folder} has no sub-folder with a corpus.jsonl: pass --collections")
    if unknown := exact - {path.name for path in folders}:
        raise CollectionError(f"--float32: {folder} has no collection {', '.join(sorted(unknown))}")
    loaded = [Collection.load(p, max_queries=limits.queries, max_documents=limits.documents) for p in folders]
    measured = [_measure_one(shop, collection) for collection in loaded]
    losses = [(m, _measure_exact(shop, m)) for m in measured if m.collection.name in exact]
    return _words(shop, measured, limits, losses)


def _measure_one(shop: Workshop, collection: Collection) -> Measured:
    """All scores of the shipped int8 models."""
    task = shop.bars.add_task(collection.name, total=len(collection.documents) + 2 * len(collection.queries))

    def advance(count: int) -> None:
        shop.bars.advance(task, count)

    encoder = OnnxModel(shop.out / minilm.NAME / "model.onnx", shop.threads)
    tokenizer = TextTokenizer(shop.out / minilm.NAME / "tokenizer.json")
    documents = _encode_once(shop, encoder, tokenizer, collection, advance)
    queries = encode(encoder, tokenizer(collection.queries, QUERY_MAX_TOKENS))
    candidates = candidates_of(collection, documents, queries, advance)
    logits = _score_once(shop, collection, candidates, advance)
    return Measured(collection, candidates, logits, _maxsim_ratio(shop))


def _encode_once(
    shop: Workshop, encoder: OnnxModel, tokenizer: TextTokenizer, collection: Collection, advance: Advance
) -> Encoded:
    """Document vectors, kept in the work folder: the slowest step, and it only depends on model and texts."""
    path = _kept(shop, "vectors", (minilm.NAME,), collection)
    if path.exists():
        advance(len(collection.documents))
        with np.load(path, allow_pickle=False) as data:
            return Encoded(data["sentences"], data["tokens"], data["offsets"])
    encoded = encode(encoder, tokenizer(collection.documents, minilm.MAX_TOKENS), advance)
    np.savez(path, sentences=encoded.sentences, tokens=encoded.tokens, offsets=encoded.offsets)
    return encoded


def _score_once(
    shop: Workshop, collection: Collection, candidates: Sequence[Candidates], advance: Advance
) -> list[Floats]:
    """Logits, kept like the vectors; they depend on both models, because `minilm-l6` chose the candidates."""
    path = _kept(shop, "logits", (minilm.NAME, network.NAME), collection)
    if path.exists():
        advance(len(collection.queries))
        with np.load(path, allow_pickle=False) as data:
            return [data[f"arr_{row}"] for row in range(len(candidates))]
    scorer = OnnxModel(shop.out / network.NAME / "model.onnx", shop.threads)
    logits = cross_encode(scorer, _pair_tokenizer(shop), collection, candidates, CROSS_ENCODER_MAX_TOKENS, advance)
    np.savez(path, *logits)  # kept as arr_0, arr_1, ...
    return logits


def _kept(shop: Workshop, kind: str, models: Sequence[str], collection: Collection) -> Path:
    """Where a result is kept; the name has a digest of the models and the texts that it depends on."""
    key = hashlib.sha256()
    for name in models:
        key.update((shop.out / name / "model.onnx").read_bytes())
    key.update("\0".join([*collection.documents, *(collection.queries if kind == "logits" else ())]).encode())
    return shop.work / f"{kind}-{collection.name}-{key.hexdigest()[:12]}.npz"


def _measure_exact(shop: Workshop, measured: Measured) -> Measured:
    """The same candidates, scored by the float32 forms of both models."""
    collection = measured.collection
    used = np.unique(np.concatenate([c.documents for c in measured.candidates]))
    task = shop.bars.add_task(f"{collection.name}, float32", total=len(used) + len(collection.queries))

    def advance(count: int) -> None:
        shop.bars.advance(task, count)

    encoder, tokenizer = shop.exact_minilm(), TextTokenizer(shop.out / minilm.NAME / "tokenizer.json")
    texts = [collection.documents[int(index)] for index in used]
    documents = encode(encoder, tokenizer(texts, minilm.MAX_TOKENS), advance)
    queries = encode(encoder, tokenizer(collection.queries, QUERY_MAX_TOKENS))
    candidates = []
    for row, found in enumerate(measured.candidates):
        places = np.searchsorted(used, found.documents)
        cosine = documents.sentences[places] @ queries.sentences[row]
        maxsim = maxsim_of(queries.token_rows(row), documents, places)
        candidates.append(replace(found, cosine=cosine, maxsim=maxsim))
    scorer, pairs = shop.exact_cross_encoder(), _pair_tokenizer(shop)
    logits = cross_encode(scorer, pairs, collection, candidates, CROSS_ENCODER_MAX_TOKENS, advance)
    return Measured(collection, candidates, logits, measured.maxsim_ratio)


def _pair_tokenizer(shop: Workshop) -> TextTokenizer:
    return TextTokenizer(shop.out / network.NAME / "tokenizer.json")


def _maxsim_ratio(shop: Workshop) -> float:
    manifest = json.loads((shop.out / minilm.NAME / "model.json").read_text("utf-8"))
    return float(manifest["maxsim_ratio"])


def _words(
    shop: Workshop, measured: Sequence[Measured], limits: Limits, exact: Sequence[tuple[Measured, Measured]]
) -> dict[str, str]:
    sizes = ", ".join(
        f"{m.collection.name} ({len(m.collection.queries)} queries, {len(m.collection.documents):,} documents)"
        for m in measured
    )
    method = (
        f"nDCG@10 after reordering the top {USUAL_K} of a first stage; scores are fused as z-sums.\n"
        f"Collections: {sizes}; at most {limits.queries} queries and {limits.documents:,} documents each, sampled\n"
        "with all relevant documents kept, which makes them easier than whole. First stage: BM25 (bm25s, Lucene's\n"
        "defaults, English stop words and stems), or hybrid = reciprocal rank fusion of BM25 and the cosine of\n"
        "`minilm-l6`. Intervals: paired bootstrap over queries, collections weighing the same.\n"
        f"Command: `{EVALUATE}`."
    )
    chosen = (
        "Fusion weights of the built-in profile and their gain over first-stage order. They are rounded and were\n"
        "chosen looking at these collections, so expect somewhat less on another one: calibrate."
    )
    texts = {}
    for name, arm, rows in (
        (minilm.NAME, "li", report.LATE_INTERACTION_ROWS),
        (network.NAME, "ce", report.CROSS_ENCODER_ROWS),
    ):
        parts = [method, report.quality_table(measured, rows), chosen, report.default_table(measured, (None, arm))]
        if arm == "ce":
            parts.insert(0, report.cross_encoder_verdict(measured))
        if exact:
            parts += [
                "float32 against int8, reordering BM25's top 50 by the model's score alone:",
                _exact_table(exact, arm),
            ]
        texts[name] = "\n\n".join(parts)
    (shop.work / "evaluation.md").write_text("\n\n".join(texts.values()) + "\n", "utf-8")
    return texts


def _exact_table(pairs: Sequence[tuple[Measured, Measured]], arm: str) -> str:
    lines = ["| collection | float32 | int8 | difference (95 % interval), p |", "|---|---|---|---|"]
    for int8, exact in pairs:
        fine, coarse = (ndcg(m, "bm25", {arm: 1.0}) for m in (exact, int8))
        difference = report.interval(compare([coarse], [fine]))
        lines.append(f"| {int8.collection.name} | {fine.mean():.3f} | {coarse.mean():.3f} | {difference} |")
    return "\n".join(lines)
