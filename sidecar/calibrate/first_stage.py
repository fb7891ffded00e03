"""The built-in first stage: BM25 and dense retrieval over one collection, as most search stacks have them.

Calibration and the demo need candidates with honest signals. Lexical: bm25s (method lucene) over the terms of
`sidecar.calibrate.terms`. Dense: cosine of the embedded encoder's sentence vectors, exact for small
collections, an hnswlib graph for large ones (`sidecar.calibrate.dense_vectors`). Needs the extra `calibrate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from router.fusion import z_scores
from sidecar.calibrate.dense_vectors import DenseIndex, Vectors, encode_all
from sidecar.calibrate.terms import TermSplitter
from sidecar.embedded import model_dir
from sidecar.engines.manifest import Manifest, read_manifest

Mode = Literal["bm25", "hybrid"]
Fusion = Literal["rrf", "zscore"]

# Lucene's defaults: how soon a repeated term saturates, and how much a long document is held against it.
BM25_K1 = 1.2
BM25_B = 0.75
# Reciprocal rank fusion: Cormack, Clarke, Buettcher, SIGIR 2009, whose k this is.
RRF_K = 60
# Each list contributes at least so many candidates, so that fusing sees more than the answer shows.
_LEAST_DEPTH = 100
EMBEDDED_ENCODER = "minilm-l6"


class Searchable(Protocol):
    """What a collection consists of."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str: ...


DocumentT = TypeVar("DocumentT", bound=Searchable)


@dataclass(frozen=True, slots=True)
class Hit:
    """One candidate. ``signals``: `bm25` (0.0 where no term matches) and, in mode hybrid, `dense` (cosine)."""

    id: str
    text: str
    signals: dict[str, float]


class FirstStage:
    """An index of one collection; `build` makes it."""

    def __init__(self, documents: Sequence[Searchable], dense: DenseIndex | None, encoder: Any) -> None:
        self._documents = tuple(documents)
        self._splitter = TermSplitter()
        self._lexical = _lexical_index([self._splitter.terms(document.text) for document in self._documents])
        self._dense = dense
        self._encoder = encoder

    @classmethod
    def build(
        cls,
        documents: Sequence[DocumentT],
        *,
        dense: bool = True,
        dense_text: Callable[[DocumentT], str] | None = None,
        dense_max_tokens: int | None = None,
        cache_dir: Path | None = None,
        progress: bool = True,
    ) -> FirstStage:
        """Index ``documents``; their order breaks ties. With ``dense``, minutes of encoding for thousands.

        A document's vector reads ``dense_text`` of it (None: its whole text), cut to ``dense_max_tokens`` (None: the
        encoder's default, 128); less is faster. ``cache_dir`` keeps the vectors for the next time (None: they are not
        kept); ``progress`` shows a bar on standard error. Raises ValueError for an empty collection, OSError when
        ``cache_dir`` can't be written, ModelError when the embedded encoder is damaged.
        """
        if not documents:
            raise ValueError("documents is empty; a first stage needs at least one document")
        if not dense:
            return cls(documents, None, None)
        from sidecar.engines.onnx import TokenEncoder

        model = read_manifest(model_dir(EMBEDDED_ENCODER))
        texts = [dense_text(document) if dense_text else document.text for document in documents]
        vectors = _vectors(texts, model, dense_max_tokens, cache_dir, progress)
        return cls(documents, DenseIndex(vectors), TokenEncoder(model))

    def search(self, query: str, k: int, mode: Mode = "bm25", fusion: Fusion = "rrf") -> list[Hit]:
        """The ``k`` best documents (fewer where fewer match), best first; ties in the collection's order.

        ``bm25``: documents that share a term with the query, by BM25. ``hybrid``: the union of the best by
        BM25 and the nearest by cosine, ordered by reciprocal rank fusion (the sum of 1 / (60 + rank) over the
        lists that hold the document, ranks from 1) or by the sum of both signals' z-scores over the union.
        Raises ValueError for ``k`` below 1, or for ``hybrid`` without dense vectors.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        lexical = self.bm25(query)
        if mode == "bm25":
            return [self._hit(i, bm25=float(lexical[i])) for i in _best(lexical, k)]
        if self._dense is None:
            raise ValueError("mode 'hybrid' needs dense vectors; build the first stage with dense=True")
        vector = self._encode_query(query)
        depth = max(k, _LEAST_DEPTH)
        by_bm25, by_cosine = _best(lexical, depth), self._dense.nearest(vector, depth)
        union = sorted({*by_bm25, *by_cosine})
        cosines = self._dense.scores(vector, union)
        if fusion == "rrf":
            fused = reciprocal_rank_fusion((by_bm25, by_cosine), union)
        else:
            bm25 = [float(lexical[i]) for i in union]
            fused = [sum(pair) for pair in zip(z_scores(bm25), z_scores(cosines), strict=True)]
        order = sorted(range(len(union)), key=lambda i: -fused[i])[:k]
        return [self._hit(union[i], bm25=float(lexical[union[i]]), dense=cosines[i]) for i in order]

    def bm25(self, query: str) -> Vectors:
        """BM25 of every document, float32 [n]; 0 where no term matches."""
        terms = self._splitter.terms(query)
        if not terms or self._lexical is None:
            return np.zeros(len(self._documents), dtype=np.float32)
        scores: Vectors = self._lexical.get_scores(terms)
        return scores

    def _encode_query(self, query: str) -> Vectors:
        limit = self._encoder.manifest.truncation.query_max_tokens
        vector: Vectors = self._encoder.encode([query], limit).sentences[0]
        return vector

    def _hit(self, position: int, **signals: float) -> Hit:
        document = self._documents[position]
        return Hit(document.id, document.text, signals)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[int]], positions: Sequence[int]) -> list[float]:
    """For each of ``positions`` the sum of 1 / (60 + rank), ranks from 1, over the rankings that hold it."""
    ranks = [{position: rank for rank, position in enumerate(ranking, 1)} for ranking in rankings]
    return [sum(1 / (RRF_K + rank[position]) for rank in ranks if position in rank) for position in positions]


def _best(scores: Vectors, k: int) -> list[int]:
    """Positions of the ``k`` largest positive scores, largest first; ties by position."""
    order = np.argsort(-scores, kind="stable")[:k]
    return [int(i) for i in order if scores[i] > 0]


def _lexical_index(terms: list[list[str]]) -> Any:
    """The bm25s index, or None where no document has any term."""
    import bm25s

    if not any(terms):
        return None
    index = bm25s.BM25(method="lucene", k1=BM25_K1, b=BM25_B)
    index.index(terms, show_progress=False)
    return index


def _vectors(
    texts: list[str], model: Manifest, max_tokens: int | None, cache_dir: Path | None, progress: bool
) -> Vectors:
    from rich.console import Console
    from rich.progress import Progress

    limit = model.truncated(max_tokens).max_tokens
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("Encoding the documents", total=len(texts))
        return encode_all(texts, model, limit, cache_dir, lambda done: bar.update(task, completed=done))
