"""What every reranker and signal says about the first-stage candidates of a collection; the slow half of measuring."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidecar.embedded.make.bm25 import Bm25
from sidecar.embedded.make.encode import Advance, Encoded, OnnxModel, TextTokenizer, batches, cut
from sidecar.embedded.make.files import QUERY_MAX_TOKENS
from sidecar.embedded.make.teacher import maxsim_of
from sidecar.embedded.make.train import pair_inputs

DEPTH = 100  # candidates of a list
CROSS_ENCODER_DEPTH = 50  # of these, how many the cross-encoder reads: it is by far the slowest
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
    def load(cls, folder: Path, *, max_queries: int, max_documents: int, seed: int = 0) -> Collection:
        """Reads `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`; at most so many queries and documents, sampled.

        Documents that are relevant to a kept query are always kept; leaving others out makes the task easier, so
        figures compare only at the same limits. Raises CollectionError for a missing file or field.
        """
        rng = np.random.default_rng(seed)
        try:
            corpus = _json_lines(folder / "corpus.jsonl")
            queries = _json_lines(folder / "queries.jsonl")
            lines = (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]
            qrels: dict[str, dict[str, int]] = {}
            for line in lines:
                query, document, grade = line.split("\t")
                qrels.setdefault(query, {})[document] = int(grade)
            judged = [q for q in queries if any(grade > 0 for grade in qrels.get(q["_id"], {}).values())]
            kept = [judged[index] for index in sorted(rng.permutation(len(judged))[:max_queries])]
            corpus = _sample(
                corpus, {d for q in kept for d, grade in qrels[q["_id"]].items() if grade > 0}, max_documents, rng
            )
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


def _sample(
    corpus: list[dict[str, str]], relevant: set[str], limit: int, rng: np.random.Generator
) -> list[dict[str, str]]:
    """The relevant documents and as many others as fit, in the order of the collection."""
    others = [index for index, document in enumerate(corpus) if document["_id"] not in relevant]
    room = max(0, limit - (len(corpus) - len(others)))
    left_out = {others[i] for i in rng.permutation(len(others))[room:]}
    return [document for index, document in enumerate(corpus) if index not in left_out]


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


def cross_encode(
    model: OnnxModel,
    tokenizer: TextTokenizer,
    collection: Collection,
    candidates: Sequence[Candidates],
    max_tokens: int,
    advance: Callable[[int], None],
) -> list[Floats]:
    """Logits of every query's candidates, in their order; a pair has at most `max_tokens` tokens.

    NaN for candidates that are below CROSS_ENCODER_DEPTH in every list.
    """
    wanted = [np.unique(np.concatenate([c.lists[n][:CROSS_ENCODER_DEPTH] for n in LISTS])) for c in candidates]
    used = sorted({int(d) for c, places in zip(candidates, wanted, strict=True) for d in c.documents[places]})
    ids = dict(zip(used, tokenizer([collection.documents[d] for d in used], max_tokens), strict=True))
    asked = tokenizer(collection.queries, QUERY_MAX_TOKENS)
    logits = []
    for query, listed, places in zip(asked, candidates, wanted, strict=True):
        pairs = [(query, cut(ids[int(d)], max_tokens + 1 - len(query))) for d in listed.documents[places]]
        scores = np.full(len(listed.documents), np.nan, dtype=np.float32)
        for batch in batches([len(document) for _, document in pairs]):
            input_ids, mask, types = pair_inputs([pairs[index] for index in batch])
            inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
            scores[places[batch]] = model.run(inputs)[0]
        logits.append(scores)
        advance(1)
    return logits
