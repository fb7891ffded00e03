"""Late interaction over indexes that were built before: a request costs one query encoding, whatever its documents."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from router.arms import Strategy, Work
from sidecar.engines.specs import IndexSpec
from sidecar.indexing.work import QUERY_TOKENS, document_tokens
from sidecar.rerankers.base import Document, IndexUnavailableError, Limits, Scored, ScoreRequest
from sidecar.rerankers.loadable import Loadable
from sidecar.rerankers.local import LocalReranker
from sidecar.scheduler import Scheduling, Turn
from sidecar.worker_messages import KEPT_QUERIES, Load, Ready, ScoreIndexed

MAX_DOCUMENTS = 1_000  # in one call: about 30 ms of work


class IndexedReranker(LocalReranker):
    """Scores are MaxSim, the mean over the query's tokens (see `sidecar.engines.plaid`).

    It needs no texts: a document's `indexed_ref` says where its vectors lie. All candidates of a request have to lie
    in one collection, since scores of different indexes can't be compared. Candidates that the index does not have
    are not scored.
    """

    def __init__(self, name: str, model: Loadable, scheduling: Scheduling = Scheduling()) -> None:  # noqa: B008 - frozen
        limits = Limits(max_chunk_documents=MAX_DOCUMENTS, reads_text=False)
        super().__init__(name, Strategy.LATE_INTERACTION, model, limits, scheduling)
        self._collections: tuple[str, ...] = ()
        if isinstance(model.load, Load) and isinstance(model.load.spec, IndexSpec):
            self._collections = tuple(collection for collection, _ in model.load.spec.collections)
        self._queries: OrderedDict[tuple[str, str], None] = OrderedDict()

    def work(self, request: ScoreRequest) -> Work:
        """The query's tokens, unless its vectors are kept, and next to nothing for each document (`document_tokens`).

        Refuses candidates without an `indexed_ref`, of several collections, or of one that is not configured.
        """
        documents = request.documents
        refusal = self._refusal(documents)
        if refusal:
            return Work((), refusal=refusal, unknown=bool(self._unknown(documents)))
        count = len(documents)
        tokens = tuple(document_tokens(position + 1) - document_tokens(position) for position in range(count))
        known = not documents or self._key(request.query, documents) in self._queries
        return Work(tokens, fixed_tokens=0 if known else QUERY_TOKENS, warm=count)

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """As `LocalReranker.score`.

        Raises IndexUnavailableError too: the documents can't be looked up, or the index has none of them.
        """
        refusal = self._refusal(request.documents)
        if refusal:
            raise IndexUnavailableError(f"{self._name}: {refusal}")
        return await super().score(request, timeout_s)

    async def _score_chunk(self, query: str, documents: Sequence[Document], tokens: int, turn: Turn) -> Scored:
        key = collection, text = self._key(query, documents)
        ids = tuple(document.indexed_ref.id for document in documents if document.indexed_ref is not None)
        answer = await self._call(ScoreIndexed(text, collection, ids), tokens, turn)
        result = answer.result
        if len(result.unscored) == len(ids):
            raise IndexUnavailableError(
                f"{self._name}: none of the {len(ids)} documents is in the index {collection!r}, which has "
                f"{result.documents}"
            )
        self._keep_query(key)
        return Scored(
            scores=result.scores,
            tokens=result.tokens,
            cached=len(ids) - len(result.unscored),
            compute_ms=answer.compute_ms,
            unscored=result.unscored,
        )

    def _refusal(self, documents: Sequence[Document]) -> str:
        """Why these documents can't be looked up; '' if they can."""
        unknown = self._unknown(documents)
        if unknown:
            configured = ", ".join(self._collections)
            return f"no index is configured for the collection {unknown[0]!r}; configured: {configured}"
        refs = [document.indexed_ref for document in documents if document.indexed_ref is not None]
        if len(refs) < len(documents):
            return f"{len(documents) - len(refs)} of {len(documents)} documents have no indexed_ref"
        named = sorted({ref.collection for ref in refs})
        if len(named) > 1:
            return f"the documents lie in {len(named)} collections ({', '.join(named)}); send those of one at a time"
        return ""

    def _unknown(self, documents: Sequence[Document]) -> list[str]:
        """Collections that are named and not configured, in alphabetical order."""
        named = {document.indexed_ref.collection for document in documents if document.indexed_ref is not None}
        return sorted(named.difference(self._collections))

    def _key(self, query: str, documents: Sequence[Document]) -> tuple[str, str]:
        """What a query's vectors are kept by: collection and the part of the query that is read."""
        ref = documents[0].indexed_ref
        return ref.collection if ref is not None else "", self._query_text(query)

    def _keep_query(self, key: tuple[str, str]) -> None:
        """Mirror which queries' vectors the child keeps."""
        self._queries[key] = None
        self._queries.move_to_end(key)
        if len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)

    def _on_ready(self, ready: Ready) -> None:
        super()._on_ready(ready)
        self._queries.clear()
