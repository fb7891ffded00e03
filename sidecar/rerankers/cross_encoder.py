"""Cross-encoder: a small model reads the query and each document together."""

from __future__ import annotations

from collections.abc import Sequence

from router.arms import Strategy, Work
from sidecar.engines.batching import estimated_tokens
from sidecar.rerankers.base import Document, Limits, Scored, ScoreRequest
from sidecar.rerankers.loadable import Loadable
from sidecar.rerankers.local import LocalReranker
from sidecar.scheduler import Scheduling, Turn
from sidecar.worker_messages import ScorePairs


class CrossEncoder(LocalReranker):
    """Scores are the model's logits."""

    def __init__(self, name: str, model: Loadable, scheduling: Scheduling = Scheduling()) -> None:  # noqa: B008 - frozen
        limits = Limits(max_chunk_documents=64, shares_calls=True)
        super().__init__(name, Strategy.CROSS_ENCODER, model, limits, scheduling)

    def work(self, request: ScoreRequest) -> Work:
        """Tokens of every pair: estimated from characters (see `estimated_tokens`), the query's part in each."""
        limits = self._truncation
        query_tokens = estimated_tokens(request.query, limits.query_max_tokens)
        room = limits.max_tokens - query_tokens
        return Work(tuple(query_tokens + estimated_tokens(document.text, room) for document in request.documents))

    async def _score_chunk(self, query: str, documents: Sequence[Document], tokens: int, turn: Turn) -> Scored:
        texts = tuple(self._document_text(document) for document in documents)
        answer = await self._call(ScorePairs(self._query_text(query), texts), tokens, turn)
        return Scored(
            scores=answer.result.scores,
            tokens=answer.result.tokens,
            compute_ms=answer.compute_ms,
        )
