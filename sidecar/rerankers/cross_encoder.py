"""Cross-encoder: a small model reads the query and each document together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from router.arms import Strategy, Work
from sidecar.engines.batching import estimated_tokens
from sidecar.engines.manifest import Kind
from sidecar.rerankers.base import Document, Limits, Scored
from sidecar.rerankers.local import LocalModelOptions, LocalReranker
from sidecar.worker_messages import ScorePairs


class CrossEncoder(LocalReranker):
    """Scores are the model's logits. Every pair is computed, nothing is kept between requests.

    Parameters as in `LocalModelOptions`; a model.json of kind "cross_encoder".
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        threads: int = 0,
        max_tokens: int = 0,
        nice: int = 5,
        hard_limit_s: float = 5.0,
    ) -> None:
        options = LocalModelOptions(threads, max_tokens, nice, hard_limit_s)
        limits = Limits(max_chunk_documents=64)
        super().__init__(name, folder, Strategy.CROSS_ENCODER, Kind.CROSS_ENCODER, limits, options)

    def work(self, query: str, instruction: str, documents: Sequence[Document]) -> Work:
        """Tokens of every pair: estimated from characters (see `estimated_tokens`), the query's part in each."""
        limits = self._truncation
        query_tokens = estimated_tokens(query, limits.query_max_tokens)
        room = limits.max_tokens - query_tokens
        return Work(tuple(query_tokens + estimated_tokens(document.text, room) for document in documents))

    async def _score_chunk(self, query: str, documents: Sequence[Document], tokens: int, deadline: float) -> Scored:
        texts = tuple(self._document_text(document) for document in documents)
        answer = await self._call(ScorePairs(self._query_text(query), texts), tokens, deadline)
        return Scored(
            scores=answer.result.scores,
            tokens=answer.result.tokens,
            queue_ms=answer.queue_ms,
            compute_ms=answer.compute_ms,
        )
