"""What every reranker and signal says about the first-stage candidates of a collection; the slow half of measuring."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidecar.embedded.make.bm25 import Bm25
from sidecar.embedded.make.encode import Advance, Encoded, Ids, OnnxModel, TextTokenizer, batches, encode
from sidecar.embedded.make.files import QUERY_MAX_TOKENS
from sidecar.embedded.make.teacher import maxsim_of
from sidecar.embedded.make.train import pair_inputs

DEPTH = 100  # candidates of a list
RRF_K = 60  # Cormack, Clarke and Buettcher, 2009
LISTS = ("bm25", "dense", "hybrid")
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class CollectionError(RuntimeError):
    """A folder is not a collection in BEIR layout; the message names the file."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection in BEIR layout. Only judged queries are kept; `qrels`: query id -> document id -> grade."""

    name: str
    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]

    @classmethod
    def load(cls, folder: Path, max_queries: int, seed: int = 0) -> Collection:
        """Reads `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`; at most `max_queries` queries, sampled.

        Raises CollectionError for a missing file or field.
        """
        try:
            corpus = _json_lines(folder / "corpus.jsonl")
            queries = _json_lines(folder / "queries.jsonl")
            lines = (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]
            qrels: dict[str, dict[str, int]] = {}
            for line in lines:
                query, document, grade = line.split("\t")
                qrels.setdefault(query, {})[document] = int(grade)
            judged = [q for q in queries if any(grade > 0 for grade in qrels.get(q["_id"], {}).values())]
            chosen = np.random.default_rng(seed).permutation(len(judged))[:max_queries]
            kept = [judged[index] for index in sorted(chosen)]
            titled = [f"{d['title']}. {d['text']}" if d.get("title") else d["text"] for d in corpus]
            return cls(
                folder.name,
                [d["_id"] for d in corpus],
                titled,
                [q["_id"] for q in kept],
                [q["text"] for q in kept],
                {q["_id"]: qrels[q["_id"]] for q in kept},
            )
        except (OSError, KeyError, ValueError) as error:
            raise CollectionError(f"{folder} is not a collection in BEIR layout: {error}") from error


def _json_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of one query. `documents` [n] indexes the collection; the others are scores of these n.

    `lists[name]` are positions in `documents`, best first, at most DEPTH: the first-stage lists of LISTS.
    """

    documents: Indices
    lists: dict[str, Indices]
    bm25: Floats
    cosine: Floats
    maxsim: Floats


def candidates_of(
    collection: Collection, documents: Encoded, queries: Encoded, advance: Advance = lambda _: None
) -> list[Candidates]:
    """First-stage lists and token encoder scores of every query."""
    lexical = Bm25(collection.documents)
    found = []
    for row, query in enumerate(collection.queries):
        bm25, cosine = lexical.scores(query), documents.sentences @ queries.sentences[row]
        ranked = _first_stage(bm25, cosine)
        union = np.unique(np.concatenate(list(ranked.values())))
        lists = {name: np.searchsorted(union, best) for name, best in ranked.items()}
        maxsim = maxsim_of(queries.token_rows(row), documents, union)
        found.append(Candidates(union, lists, bm25[union], cosine[union], maxsim))
        advance(1)
    return found


def _first_stage(bm25: Floats, cosine: Floats) -> dict[str, Indices]:
    by_bm25, by_cosine = np.argsort(-bm25, kind="stable"), np.argsort(-cosine, kind="stable")
    matching = by_bm25[: int((bm25 > 0).sum())]
    fused = np.zeros(len(bm25))
    fused[matching] += 1 / (RRF_K + 1 + np.arange(len(matching)))
    fused[by_cosine] += 1 / (RRF_K + 1 + np.arange(len(by_cosine)))
    hybrid = np.argsort(-fused, kind="stable")
    return {"bm25": matching[:DEPTH], "dense": by_cosine[:DEPTH], "hybrid": hybrid[:DEPTH]}


def encode_texts(model: OnnxModel, tokenizer: TextTokenizer, texts: Sequence[str], max_tokens: int, advance: Advance) -> Encoded:
    """Tokenises and encodes."""
    return encode(model, tokenizer(texts, max_tokens), advance)


def cross_encode(
    model: OnnxModel,
    tokenizer: TextTokenizer,
    collection: Collection,
    candidates: Sequence[Candidates],
    max_tokens: int,
    advance: Callable[[int], None],
) -> list[Floats]:
    """Logits of every query's candidates, in their order; a pair has at most `max_tokens` tokens."""
    used = sorted({int(d) for c in candidates for d in c.documents})
    ids = dict(zip(used, tokenizer([collection.documents[d] for d in used], max_tokens), strict=True))
    asked = tokenizer(collection.queries, QUERY_MAX_TOKENS)
    logits = []
    for query, listed in zip(asked, candidates, strict=True):
        pairs = [(query, _cut(ids[int(d)], max_tokens + 1 - len(query))) for d in listed.documents]
        scores = np.zeros(len(pairs), dtype=np.float32)
        for batch in batches([len(document) for _, document in pairs]):
            input_ids, mask, types = pair_inputs([pairs[index] for index in batch])
            inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
            scores[batch] = model.run(inputs)[0]
        logits.append(scores)
        advance(1)
    return logits


def _cut(ids: Ids, max_tokens: int) -> Ids:
    """Shortens to `max_tokens`, keeping the closing [SEP]."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]
