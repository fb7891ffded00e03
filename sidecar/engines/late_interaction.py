"""Late interaction in the worker process: encode what is cold, score everything over kept vectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from sidecar.engines.base import Encoder
from sidecar.engines.kept_vectors import KeptVectors
from sidecar.engines.manifest import Truncation
from sidecar.engines.vectors import (
    DocumentVectors,
    QueryVectors,
    cosine,
    maxsim,
    quantise,
    quantise_query,
)
from sidecar.worker_messages import KEPT_QUERIES, EncodeResult, LateResult


class LateInteractionScorer:
    """Scores documents against a query: ``0.5 * cosine + 0.5 * maxsim_ratio * maxsim``.

    The manifest's ``maxsim_ratio`` (standard deviation of cosines over that of MaxSim within candidate lists)
    brings both halves to one scale, so that the sum ranks like a sum of z-scores while a document's score does
    not depend on the other candidates. A model without sentence vectors (ColBERT) scores by MaxSim alone. Cold
    documents are scored over the same int8 vectors that are then kept: a warm score equals the cold one, and a score
    among others equals the one alone, to the last bit.
    """

    def __init__(self, encoder: Encoder, truncation: Truncation, vector_bytes: int) -> None:
        self._encoder = encoder
        self._truncation = truncation
        self._ratio = encoder.maxsim_ratio
        self.kept = KeptVectors(vector_bytes)
        self._queries: OrderedDict[str, QueryVectors] = OrderedDict()

    def score(self, query: str, documents: Sequence[tuple[bytes, str | None]]) -> LateResult:
        """Raw scores in input order, or the positions whose text is needed first."""
        entries = self.kept.find(dict.fromkeys(digest for digest, _ in documents))
        missing = tuple(
            position for position, (digest, text) in enumerate(documents) if text is None and digest not in entries
        )
        if missing or not documents:
            return LateResult((), missing, 0, 0, self.kept.changed())
        cold = {digest: text for digest, text in documents if text is not None and digest not in entries}
        query_tokens, query_vectors = self._query(query)
        fresh, tokens = self._encode(cold)
        self.kept.keep(fresh)
        entries |= fresh
        vectors = [entries[digest] for digest, _ in documents]
        scores = maxsim(query_vectors, vectors)
        if query_vectors.sentence.size:
            scores = 0.5 * cosine(query_vectors, vectors) + 0.5 * self._ratio * scores
        return LateResult(
            scores=tuple(scores.tolist()),
            missing=(),
            tokens=tokens + query_tokens,
            warm=sum(digest not in fresh for digest, _ in documents),
            change=self.kept.changed(),
        )

    def encode(self, documents: Sequence[tuple[bytes, str]]) -> EncodeResult:
        """Keeps the vectors of documents that are not kept yet."""
        known = self.kept.find(dict.fromkeys(digest for digest, _ in documents))
        fresh, tokens = self._encode({digest: text for digest, text in documents if digest not in known})
        self.kept.keep(fresh)
        return EncodeResult(tokens, self.kept.changed())

    def _query(self, query: str) -> tuple[int, QueryVectors]:
        """Tokens read for it (0 if it is kept), and its vectors."""
        kept = self._queries.get(query)
        if kept is not None:
            self._queries.move_to_end(query)
            return 0, kept
        encoded = self._encoder.encode_query(query, self._truncation.query_max_tokens)
        self._queries[query] = quantise_query(encoded.vectors[0], encoded.sentences[0])
        if len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)
        return encoded.tokens, self._queries[query]

    def _encode(self, texts: dict[bytes, str]) -> tuple[dict[bytes, DocumentVectors], int]:
        if not texts:
            return {}, 0
        encoded = self._encoder.encode(list(texts.values()), self._truncation.max_tokens)
        vectors = map(quantise, encoded.vectors, encoded.sentences)
        return dict(zip(texts, vectors, strict=True)), encoded.tokens
