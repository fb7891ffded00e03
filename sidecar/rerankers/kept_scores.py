"""Pair scores that are kept: of candidates that were scored for the same query before, none is computed again."""

from __future__ import annotations

import hashlib
import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from cachetools import TTLCache

from router.arms import Availability, Work
from sidecar.rerankers.base import BadOutputError, Document, Identity, Limits, Reranker, Scored, ScoreRequest
from sidecar.scheduler import Scheduler

# Key, score and what cachetools keeps besides: 310 measured with tracemalloc on CPython 3.11, more while a table grows.
BYTES_PER_SCORE = 400


class KeptScores:
    """A `Reranker` around another one, whose scores it keeps by pair.

    Only for rerankers of which a document's score depends on nothing but query, instruction and that document: a
    cross-encoder, a remote pool, a pointwise LLM. Not for a listwise LLM or a cascade, and not for late interaction,
    which keeps vectors and so is fast for other queries, too.

    A key holds the model's revision, the query, the instruction and `Document.digest`, which holds the tenant and the
    text (DESIGN section 6, invariant 9). At most ``max_bytes`` are kept, each score for ``ttl_s`` seconds; the least
    recently used leave first. ``timer`` is in seconds.
    """

    def __init__(
        self, inner: Reranker, max_bytes: int, ttl_s: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._timer = timer
        self._scores: TTLCache[bytes, float] = TTLCache(max_bytes, ttl_s, timer, lambda _: BYTES_PER_SCORE)

    @property
    def identity(self) -> Identity:
        """That of the reranker inside."""
        return self._inner.identity

    @property
    def limits(self) -> Limits:
        """Those of the reranker inside."""
        return self._inner.limits

    @property
    def kept_pairs(self) -> int:
        """Scores that are kept now."""
        return len(self._scores)

    def availability(self) -> Availability:
        """That of the reranker inside: one that can't score now is not asked, whatever is kept."""
        return self._inner.availability()

    def work(self, request: ScoreRequest) -> Work:
        """The work of the reranker inside for what is not kept; kept pairs are warm and cost nothing.

        What is paid once per request is paid only if a pair is left. A document that occurs twice counts twice.
        Without ``use_cache`` it is all of the work of the reranker inside.
        """
        if not request.use_cache:
            return self._inner.work(request)
        documents = request.documents
        keys = _keys(self._inner.identity.revision, request)
        left = [position for position, key in enumerate(keys) if key not in self._scores]
        if not left:
            return Work((0,) * len(documents), warm=len(documents))
        work = self._inner.work(replace(request, documents=[documents[position] for position in left]))
        if work.refusal or len(left) == len(documents):
            return work
        tokens = [0] * len(documents)
        for position, count in zip(left, work.tokens, strict=True):
            tokens[position] = count
        return replace(work, tokens=tuple(tokens), warm=len(documents) - len(left) + work.warm)

    async def start(self) -> None:
        """Starts the reranker inside."""
        await self._inner.start()

    @property
    def scheduler(self) -> Scheduler | None:
        """That of the reranker inside."""
        return self._inner.scheduler

    def queue_ms(self, end: float = math.inf) -> float:
        """That of the reranker inside."""
        return self._inner.queue_ms(end)

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """Those of the reranker inside."""
        return self._inner.warm_up_samples()

    def remember(self, documents: Sequence[Document]) -> None:
        """Told to the reranker inside."""
        self._inner.remember(documents)

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Kept scores, and for the rest one call of the reranker inside, in which no document occurs twice.

        Where every score is kept nothing is called: ``tokens``, ``queue_ms`` and ``compute_ms`` are 0 then, and only
        then. Without ``use_cache`` all of this is left out. Scores of two models are never mixed: where the model was
        replaced between the kept ones and the answer, all are asked for again, in the time that is left.

        Raises what the reranker inside raises, and BadOutputError when it answers too few scores or too many.
        """
        if not request.use_cache:
            return await self._inner.score(request, timeout_s)
        end = self._timer() + timeout_s
        revision = self._inner.identity.revision
        keys = _keys(revision, request)
        known: dict[bytes, float] = {}
        left: dict[bytes, Document] = {}
        for key, document in zip(keys, request.documents, strict=True):
            if key in known or key in left:
                continue
            score = self._scores.get(key)
            if score is None:
                left[key] = document
            else:
                known[key] = score
        if not left:
            return Scored(tuple(known[key] for key in keys), tokens=0, cached=len(keys))
        answer = await self._inner.score(replace(request, documents=tuple(left.values())), timeout_s)
        if len(answer.scores) != len(left):
            raise BadOutputError(
                f"{self.identity.name} answered {len(answer.scores)} scores for {len(left)} documents",
                micro_usd=answer.micro_usd,
            )
        unscored = {key for position, key in enumerate(left) if position in answer.unscored}
        computed = dict(zip(left, answer.scores, strict=True))
        if answer.revision in ("", revision):
            self._keep({key: score for key, score in computed.items() if key not in unscored})
        elif known:
            return await self._inner.score(request, end - self._timer())
        known |= computed
        positions = frozenset(position for position, key in enumerate(keys) if key in unscored)
        return replace(
            answer,
            scores=tuple(known[key] for key in keys),
            cached=answer.cached + len(keys) - len(positions) - (len(left) - len(unscored)),
            unscored=positions,
        )

    async def close(self) -> None:
        """Closes the reranker inside."""
        await self._inner.close()

    def _keep(self, computed: dict[bytes, float]) -> None:
        """A model that answers nonsense for one document is not believed about its neighbours either."""
        if self._scores.maxsize >= BYTES_PER_SCORE and all(map(math.isfinite, computed.values())):
            self._scores.update(computed)


def _keys(revision: str, request: ScoreRequest) -> list[bytes]:
    """One key per document. The revision is asked for anew every time, because a model in a child process or a pool may
    come back from a restart with another one; one that is not known yet ('') belongs to a model that can't score yet.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in (revision, request.query, request.instruction):
        raw = text.encode()
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        digest.update(struct.pack("<I", len(raw)) + raw)
    pair = digest.digest()
    return [pair + document.digest for document in request.documents]
