"""The search engine that was there before: BM25 (bm25s) and vectors (hnswlib), joined by reciprocal rank fusion."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import bm25s
import hnswlib
import numpy as np

_DIMENSIONS = 256
_RRF_K = 60  # of Cormack, Clarke, Buettcher, "Reciprocal Rank Fusion ...", SIGIR 2009


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that was found. ``bm25`` is 0 where only the vectors found it."""

    id: str
    text: str
    bm25: float


class Index:
    """Both indexes over the same pages."""

    def __init__(self, lines: Iterable[str]) -> None:
        """``lines`` are JSON objects with ``id`` and ``text``, as ``millirank collection`` writes them."""
        self._pages = [json.loads(line) for line in lines]
        tokens = bm25s.tokenize([page["text"] for page in self._pages], stopwords="en", show_progress=False)
        self._vocabulary: dict[str, int] = tokens.vocab
        self._bm25 = bm25s.BM25(method="lucene")
        self._bm25.index(tokens, show_progress=False)
        self._words = _word_vectors(tokens.ids, len(self._vocabulary))
        self._vectors = hnswlib.Index(space="ip", dim=_DIMENSIONS)
        self._vectors.init_index(max_elements=len(self._pages), M=16, ef_construction=100, random_seed=1)
        self._vectors.add_items(np.stack([self._embed(words) for words in tokens.ids]))
        self._vectors.set_ef(200)

    def __len__(self) -> int:
        return len(self._pages)

    def search(self, query: str, size: int) -> list[Hit]:
        """The best ``size`` pages, best first."""
        tokens = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)[0]
        size = min(size, len(self._pages))
        scores = self._bm25.get_scores(tokens)
        lexical = [int(number) for number in np.argsort(-scores, kind="stable")[:size] if scores[number] > 0]
        known = [self._vocabulary[token] for token in tokens if token in self._vocabulary]
        near = [int(number) for number in self._vectors.knn_query(self._embed(known), k=size)[0][0]] if known else []
        fused: dict[int, float] = {}
        for ranking in (lexical, near):
            for rank, number in enumerate(ranking):
                fused[number] = fused.get(number, 0.0) + 1.0 / (_RRF_K + rank + 1)
        best = sorted(fused, key=lambda number: -fused[number])[:size]
        return [Hit(self._pages[n]["id"], self._pages[n]["text"], float(scores[n])) for n in best]

    def _embed(self, words: Sequence[int]) -> Any:
        vector = self._words[list(words)].sum(axis=0)
        return vector / (np.linalg.norm(vector) or 1.0)


def _word_vectors(documents: Sequence[Sequence[int]], words: int) -> Any:
    """Random directions, weighted by inverse document frequency: a stand-in for the model that embeds your pages."""
    frequency = np.zeros(words)
    for document in documents:
        frequency[list(set(document))] += 1
    weight = np.log(len(documents) / np.maximum(frequency, 1.0)) + 1.0
    directions = np.random.default_rng(1).standard_normal((words, _DIMENSIONS), dtype=np.float32)
    return directions * weight[:, None].astype(np.float32)
