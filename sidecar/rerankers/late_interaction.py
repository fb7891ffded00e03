"""Late interaction: token vectors per document, computed once and kept; a request then costs one query encoding."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence

from router.arms import State, Strategy, Work
from sidecar.engines.batching import estimated_tokens, kept_tokens
from sidecar.rerankers.base import Document, Limits, RerankerError, Scored, ScoreRequest
from sidecar.rerankers.loadable import Loadable
from sidecar.rerankers.local import LocalReranker
from sidecar.scheduler import Scheduling, Turn
from sidecar.worker_messages import KEPT_QUERIES, Encode, EncodeResult, LateResult, Load, Ready, ScoreLate, StoreChange

QUIET_S = 0.05  # how long the child must have had nothing to do before it is given something ahead of time
REMEMBERED_DOCUMENTS = 2_048
_log = logging.getLogger(__name__)


class LateInteraction(LocalReranker):
    """Scores are ``0.5 * cosine + 0.5 * maxsim_ratio * maxsim`` (see `sidecar.engines.late_interaction`).

    The vectors live in the child, keyed by `Document.digest`: at most `Load.vector_bytes` of them in memory (least
    recently used leave first; a document of 128 tokens takes about 18 KB), and under it in a file, if one is given, so
    that a new child is warm at once. This side mirrors which are there, so that `work` is right and a warm document's
    text is not sent again. With ``warm_idle``, documents that requests
    brought along but nobody scored are encoded one at a time while the child has nothing else to do.
    """

    def __init__(
        self,
        name: str,
        model: Loadable,
        scheduling: Scheduling = Scheduling(),  # noqa: B008 - frozen
        *,
        warm_idle: bool = True,
    ) -> None:
        limits = Limits(max_chunk_documents=256, shares_calls=True)
        super().__init__(name, Strategy.LATE_INTERACTION, model, limits, scheduling)
        load = model.load
        keeps = isinstance(load, Load) and (load.vector_bytes > 0 or load.vector_file is not None)
        self._warm: set[bytes] = set()
        self._warm_idle = warm_idle and keeps
        self._cold: OrderedDict[bytes, str] = OrderedDict()  # digest -> the part of the text that is read
        self._queries: OrderedDict[str, None] = OrderedDict()
        self._cold_arrived = asyncio.Event()
        self._warmer: asyncio.Task[None] | None = None

    @property
    def warm_documents(self) -> int:
        """Documents whose vectors are kept now."""
        return len(self._warm)

    @property
    def remembered_documents(self) -> int:
        """Documents that wait for idle time."""
        return len(self._cold)

    def work(self, request: ScoreRequest) -> Work:
        """Tokens of the documents whose vectors are not kept, estimated from characters, and the query's.

        Of those that are kept, every sixteenth counts as one token (see `kept_tokens`); a kept query counts as none.
        A document that occurs twice is encoded once, but counted twice.
        """
        warm, limit = self._warm, self._truncation.max_tokens
        tokens = []
        kept = 0
        for document in request.documents:
            if document.digest in warm:
                tokens.append(kept_tokens(kept + 1) - kept_tokens(kept))
                kept += 1
            else:
                tokens.append(estimated_tokens(document.text, limit))
        known = self._query_text(request.query) in self._queries
        query_tokens = 0 if known else estimated_tokens(request.query, self._truncation.query_max_tokens)
        return Work(tuple(tokens), fixed_tokens=query_tokens, warm=kept)

    def remember(self, documents: Sequence[Document]) -> None:
        """Queues documents whose vectors are not kept for idle time; the oldest leave a full queue."""
        if not self._warm_idle or self.availability().state is State.OFF:
            return
        for document in documents:
            if document.digest not in self._warm:
                self._cold[document.digest] = self._document_text(document)
                self._cold.move_to_end(document.digest)
        while len(self._cold) > REMEMBERED_DOCUMENTS:
            self._cold.popitem(last=False)
        if self._cold:
            self._cold_arrived.set()

    async def start(self) -> None:
        """Starts the child, and the task that warms documents, in the background."""
        await super().start()
        if self._warm_idle and self._warmer is None:
            self._warmer = asyncio.create_task(self._warm_when_idle(), name=f"warm {self.identity.name}")

    async def close(self) -> None:
        """Ends both."""
        if self._warmer is not None:
            self._warmer.cancel()
            await asyncio.wait({self._warmer})
        await super().close()

    async def _score_chunk(self, query: str, documents: Sequence[Document], tokens: int, turn: Turn) -> Scored:
        query = self._query_text(query)
        parcels = tuple(
            # In a call with others every text goes along: nobody else is to wait for a second attempt.
            (
                document.digest,
                None if document.digest in self._warm and turn.share is None else self._document_text(document),
            )
            for document in documents
        )
        answer = await self._call(ScoreLate(query, parcels), tokens, turn)
        compute_ms = answer.compute_ms
        if answer.result.missing:
            # Evicted by a call that was before this one in the queue. With all texts nothing can be missing.
            parcels = tuple((document.digest, self._document_text(document)) for document in documents)
            answer = await self._call(ScoreLate(query, parcels), tokens, turn)
            compute_ms += answer.compute_ms
        self._keep_query(query)
        result = answer.result
        return Scored(result.scores, result.tokens, result.warm, compute_ms=compute_ms)

    def _keep_query(self, query: str) -> None:
        """Mirror which queries' vectors the child keeps."""
        self._queries[query] = None
        self._queries.move_to_end(query)
        if len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)

    async def _warm_when_idle(self) -> None:
        """Encodes remembered documents, one at a time: a request waits for one of them at most."""
        while True:
            await self._cold_arrived.wait()
            await self._workers.quiet(QUIET_S)
            if not self._cold:
                self._cold_arrived.clear()
                continue
            digest, text = self._cold.popitem(last=False)
            if digest in self._warm:
                continue
            # A document that can't be encoded now is left cold: a request that needs it will say why.
            with contextlib.suppress(RerankerError):
                tokens = estimated_tokens(text, self._truncation.max_tokens)
                async with self._own_turn(tokens) as turn:
                    await self._call(Encode(((digest, text),)), tokens, turn)

    def _on_ready(self, ready: Ready) -> None:
        super()._on_ready(ready)
        self._warm.clear()
        self._mirror(ready.kept)
        self._queries.clear()

    def _on_result(self, result: object) -> None:
        if isinstance(result, LateResult | EncodeResult):
            self._mirror(result.change)

    def _mirror(self, change: StoreChange) -> None:
        self._warm.update(change.added)
        self._warm.difference_update(change.evicted)
        if change.remark:
            _log.warning("kept vectors", extra={"reranker": self.identity.name, "detail": change.remark})
