"""Late interaction in the worker process: encode what is cold, score everything over kept vectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

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
from sidecar.worker_messages import KEPT_QUERIES, EncodeResult, LateResult, ScoreLate, StoreChange


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
        """`score_lists` for a single list."""
        (result,) = self.score_lists([ScoreLate(query, tuple(documents))])
        return result

    def score_lists(self, lists: Sequence[ScoreLate]) -> list[LateResult]:
        """Raw scores of each list in input order, or the positions whose text is needed first.

        All that is cold in any list is encoded in one go, and counted in the first list that needs it. What has changed
        in the store is told with the first result.
        """
        entries = self.kept.find(dict.fromkeys(digest for each in lists for digest, _ in each.documents))
        missing = [_missing(each, entries) for each in lists]
        complete = [each for each, lacks in zip(lists, missing, strict=True) if each.documents and not lacks]
        read = self._read_queries(dict.fromkeys(each.query for each in complete))
        fresh, lengths = self._encode(
            {
                digest: text
                for each in complete
                for digest, text in each.documents
                if text is not None and digest not in entries
            }
        )
        self.kept.keep(fresh)
        entries |= fresh
        change = self.kept.changed()
        results = []
        for each, lacks in zip(lists, missing, strict=True):
            if lacks or not each.documents:
                results.append(LateResult((), lacks, 0, 0, change))
            else:
                tokens = read.pop(each.query, 0)
                tokens += sum(lengths.pop(digest, 0) for digest, _ in each.documents)
                warm = sum(digest not in fresh for digest, _ in each.documents)
                results.append(LateResult(self._scores(each, entries), (), tokens, warm, change))
            change = StoreChange()
        return results

    def _scores(self, task: ScoreLate, entries: Mapping[bytes, DocumentVectors]) -> tuple[float, ...]:
        query = self._queries[task.query]
        vectors = [entries[digest] for digest, _ in task.documents]
        scores = maxsim(query, vectors)
        if query.sentence.size:
            scores = 0.5 * cosine(query, vectors) + 0.5 * self._ratio * scores
        return tuple(scores.tolist())

    def encode(self, documents: Sequence[tuple[bytes, str]]) -> EncodeResult:
        """Keeps the vectors of documents that are not kept yet."""
        known = self.kept.find(dict.fromkeys(digest for digest, _ in documents))
        fresh, lengths = self._encode({digest: text for digest, text in documents if digest not in known})
        self.kept.keep(fresh)
        return EncodeResult(sum(lengths.values()), self.kept.changed())

    def _read_queries(self, queries: Iterable[str]) -> dict[str, int]:
        """Makes all of them kept queries; how many tokens were read for those that were not."""
        lengths: dict[str, int] = {}
        for query in queries:
            if query in self._queries:
                self._queries.move_to_end(query)
            else:
                lengths[query] = 0
        if lengths:
            encoded = self._encoder.encode_queries(list(lengths), self._truncation.query_max_tokens)
            for position, query in enumerate(lengths):
                self._queries[query] = quantise_query(encoded.vectors[position], encoded.sentences[position])
                lengths[query] = encoded.lengths[position]
        while len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)
        return lengths

    def _encode(self, texts: dict[bytes, str]) -> tuple[dict[bytes, DocumentVectors], dict[bytes, int]]:
        """Vectors of each, and how many tokens were read for it."""
        if not texts:
            return {}, {}
        encoded = self._encoder.encode(list(texts.values()), self._truncation.max_tokens)
        vectors = map(quantise, encoded.vectors, encoded.sentences)
        return dict(zip(texts, vectors, strict=True)), dict(zip(texts, encoded.lengths, strict=True))


def _missing(task: ScoreLate, entries: Mapping[bytes, DocumentVectors]) -> tuple[int, ...]:
    return tuple(
        position for position, (digest, text) in enumerate(task.documents) if text is None and digest not in entries
    )
