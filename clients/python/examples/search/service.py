"""The search service: the first stage finds, Millirank puts in order."""

from __future__ import annotations

from dataclasses import dataclass

from first_stage import Hit, Index
from millirank import Client, Ranking
from opentelemetry import trace

CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one query: the first stage's order, and the final one."""

    found: list[Hit]
    ranking: Ranking[Hit]


class SearchService:
    """Never slower than the first stage plus the budget; the sidecar can't make it fail."""

    def __init__(
        self, index: Index, reranker: Client, *, budget_ms: float = 50.0, provider: trace.TracerProvider | None = None
    ) -> None:
        self._index = index
        self._reranker = reranker
        self._budget_ms = budget_ms
        self._tracer = trace.get_tracer("search", tracer_provider=provider)

    def search(self, query: str) -> Answer:
        """The top `CANDIDATES` of the first stage, reranked."""
        with self._tracer.start_as_current_span("search"):
            found = self._index.search(query, CANDIDATES)
            ranking = self._reranker.rerank(
                query,
                found,
                budget_ms=self._budget_ms,
                text=lambda hit: hit.text,
                id=lambda hit: hit.id,
                signals=lambda hit: {"bm25": hit.bm25},
            )
            return Answer(found, ranking)
