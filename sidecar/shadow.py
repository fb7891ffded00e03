"""Shadow evaluation: what a reference reranker would have said about answers that are already out.

Learning in production without labels. For a share of the requests the reference scores the first candidates after the
answer was sent, and the agreement of the two orders goes to metrics and, if asked for, into a file for
`sidecar.calibrate.from_shadow`. It never touches an answer or a budget: it computes only while nothing else does, in
pieces of about 15 ms, teaches no estimator, keeps no scores, and gives up as soon as there is other work.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from opentelemetry.trace import Tracer

from router.arms import State
from router.fusion import all_finite, order
from router.traits import Traits
from sidecar.agreement import ndcg, rbo, scaled
from sidecar.chunks import TARGET_CHUNK_MS
from sidecar.logs import place
from sidecar.messages import Outcome, Request
from sidecar.planner import Plan
from sidecar.rerankers.base import Document, Identity, Reranker, RerankerError, ScoreRequest

_log = logging.getLogger("millirank.shadow")

# Late enough for the answer to be on the wire.
_AFTER_S = 0.05
# How long an evaluation waits for the first idle moment (documents may be encoded behind an answer), and how often it
# looks.
PATIENCE_S = 5.0
_LOOK_S = 0.02
# Longest single call. A remote reference may be slow: nobody waits for it.
_CALL_S = 30.0


class Dropped(StrEnum):
    """Why a request that was drawn was not evaluated."""

    BUSY = "busy"  # other work, now or meanwhile
    NOT_READY = "not_ready"
    CANNOT_SCORE = "cannot_score"  # fewer than two documents, or documents without what the reference needs
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One answer beside the reference, over the first k candidates of the first stage.

    ``answered`` and ``preferred`` are their positions in the answer's and in the reference's order; the other lists are
    in first-stage order: ``reference_scores`` are the reference's own, ``answer_scores`` those of the answer's reranker
    (None where it has none), ``lengths`` characters, ``signals`` values by name (None where a candidate has none). All
    have k entries. ``ndcg``, and ``first_stage_ndcg`` of the order before, are None where the reference scored all
    alike.
    """

    id: str
    corpus: str
    traits: Traits
    strategy: str
    answer: Identity | None
    reference: Identity
    answered: tuple[int, ...]
    preferred: tuple[int, ...]
    rbo: float
    ndcg: float | None
    first_stage_ndcg: float | None
    lengths: tuple[int, ...]
    signals: Mapping[str, tuple[float | None, ...]]
    answer_scores: tuple[float | None, ...]
    reference_scores: tuple[float, ...]


class Shadow:
    """Draws requests and evaluates them, one at a time."""

    def __init__(
        self,
        *,
        rerankers: Mapping[str, Reranker],
        reference: str,
        share: float,
        k: int,
        tracer: Tracer,
        on_evaluated: Callable[[Evaluation], None],
        on_dropped: Callable[[Dropped], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``share`` of the requests, from 0 to 1; ``reference`` is one of ``rerankers``."""
        self._rerankers = rerankers
        self._reference = rerankers[reference]
        self._share = share
        self._k = k
        self._tracer = tracer
        self._on_evaluated = on_evaluated
        self._on_dropped = on_dropped
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def consider(self, request: Request, plan: Plan, outcome: Outcome, busy: Callable[[], bool]) -> None:
        """Told of every answer before it is sent. Returns at once.

        ``busy`` says whether requests are under way, or none will be any more; rerankers are asked themselves.
        """
        if not drawn(request.request_id, self._share):
            return
        if self._task is not None and not self._task.done():
            self._on_dropped(Dropped.BUSY)
            return
        self._task = asyncio.create_task(self._evaluate(request, plan, outcome, busy), name="shadow")

    async def close(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _evaluate(self, request: Request, plan: Plan, outcome: Outcome, busy: Callable[[], bool]) -> None:
        await asyncio.sleep(_AFTER_S)

        def others_work() -> bool:
            return busy() or any(reranker.queue_ms() > 0.0 for reranker in self._rerankers.values())

        try:
            result = await self._run(request, plan, outcome, others_work)
        except (RerankerError, TimeoutError):
            result = Dropped.FAILED  # the reranker's own arm, if it is one, says what is the matter
        except Exception as error:  # noqa: BLE001 - nobody waits for it; left alone, asyncio would log its words
            _log.error("shadow evaluation failed", extra={"error": place(error)})
            result = Dropped.FAILED
        if isinstance(result, Dropped):
            self._on_dropped(result)
        else:
            self._on_evaluated(result)

    async def _run(
        self, request: Request, plan: Plan, outcome: Outcome, others_work: Callable[[], bool]
    ) -> Evaluation | Dropped:
        reference, limits = self._reference, self._reference.limits
        most = limits.max_chunk_documents if limits.whole_list else self._k
        documents = plan.documents[: min(self._k, most)]
        if len(documents) < 2 or (limits.reads_text and not all(document.text for document in documents)):
            return Dropped.CANNOT_SCORE
        if reference.availability().state is not State.READY:
            return Dropped.NOT_READY
        if reference.work(ScoreRequest(request.query, request.instruction, documents, use_cache=False)).refusal:
            return Dropped.CANNOT_SCORE
        end = self._clock() + PATIENCE_S
        while others_work():
            if self._clock() >= end:
                return Dropped.BUSY
            await asyncio.sleep(_LOOK_S)
        with self._tracer.start_as_current_span(
            "shadow", record_exception=False, set_status_on_exception=False
        ) as span:
            scores = await self._score(request, documents, others_work)
            if scores is None:
                span.set_attribute("millirank.shadow.dropped", Dropped.BUSY.value)
                return Dropped.BUSY
            if not all_finite(scores, len(documents)):
                return Dropped.FAILED
            evaluation = _compared(request, plan, outcome, reference.identity, scores)
            span.set_attributes(
                {
                    "millirank.decision_id": evaluation.id,
                    "millirank.reranker": evaluation.reference.name,
                    "millirank.scored_k": len(scores),
                    "millirank.shadow.rbo": round(evaluation.rbo, 5),
                    **({} if evaluation.ndcg is None else {"millirank.shadow.ndcg": round(evaluation.ndcg, 5)}),
                }
            )
            return evaluation

    async def _score(
        self, request: Request, documents: Sequence[Document], others_work: Callable[[], bool]
    ) -> list[float] | None:
        """The reference's scores, chunk by chunk; None as soon as there is other work."""
        limits = self._reference.limits
        scores: list[float] = []
        size = limits.max_chunk_documents if limits.whole_list or limits.side_by_side else 1
        while len(scores) < len(documents):
            if others_work():
                return None
            chunk = documents[len(scores) : len(scores) + min(size, limits.max_chunk_documents)]
            started = self._clock()
            # No kept scores: what is kept for requests must not have to leave for this.
            asked = ScoreRequest(request.query, request.instruction, chunk, use_cache=False, tenant=request.tenant)
            scored = await self._reference.score(asked, _CALL_S)
            if scored.shortfall or scored.unscored or len(scored.scores) != len(chunk):
                raise RerankerError("the reference left candidates out")
            scores += scored.scores
            if not limits.side_by_side:
                # So much that a request which arrives meanwhile waits for about one chunk of any other request.
                taken_ms = max(1e-3, (self._clock() - started) * 1e3)
                size = max(1, min(2 * size, int(len(chunk) * TARGET_CHUNK_MS / taken_ms)))
        return scores


def drawn(request_id: str, share: float) -> bool:
    """Whether a request is in the sample: by a digest of its id, so that equal ids are drawn together everywhere."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def _compared(
    request: Request, plan: Plan, outcome: Outcome, reference: Identity, scores: Sequence[float]
) -> Evaluation:
    k = len(scores)
    explanation = plan.explanation
    decision = explanation.decision
    answered = tuple(ranked.position for ranked in outcome.ranked if ranked.position < k)
    raw = {ranked.position: ranked.raw_score for ranked in outcome.ranked}
    preferred = tuple(order(scores, range(k), k))
    candidates = request.candidates[:k]
    gains = scaled(scores)
    answer = None
    if decision.reranker and outcome.scored_k:
        answer = Identity(decision.reranker, decision.strategy, explanation.model_revision)
    return Evaluation(
        id=explanation.decision_id,
        corpus=request.corpus,
        traits=explanation.traits,
        # What the caller got: a plan that came to nothing is first-stage order.
        strategy=decision.strategy.value if outcome.scored_k else "none",
        answer=answer,
        reference=reference,
        answered=answered,
        preferred=preferred,
        rbo=rbo(answered, preferred),
        ndcg=ndcg(answered, gains),
        first_stage_ndcg=ndcg(range(k), gains),
        lengths=tuple(len(candidate.text) for candidate in candidates),
        signals={
            name: tuple(candidate.signals.get(name) for candidate in candidates) for name in explanation.traits.signals
        },
        answer_scores=tuple(raw.get(position) for position in range(k)),
        reference_scores=tuple(scores),
    )
