"""Anytime scoring: candidates in first-stage order, chunk by chunk, until they are done or time is nearly up.

A chunk starts only if it is predicted to end in time. Whatever was scored when time is up is used. Where workers are
shared out (`sidecar.scheduler`), every chunk waits for its turn, and its size is chosen when that has come.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from router.admission import Claim, Level, Sharing
from router.arms import State, Work
from router.fusion import all_finite
from router.latency import LatencyEstimator
from sidecar.chunks import Chunks
from sidecar.messages import Degradation, DegradationReason
from sidecar.rerankers.base import (
    BadOutputError,
    Document,
    NotReadyError,
    Reranker,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.scheduler import Place, TooLateError, Turn
from sidecar.scored_prefix import Failure, Progress, ScoredPrefix, reason_of
from sidecar.shared_call import Share

# A shorter wait for a turn is the event loop's own, and has no span.
_SHOWN_WAIT_MS = 1.0


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """What is to be scored: ``documents`` are the planned candidates in first-stage order."""

    query: str
    instruction: str
    documents: Sequence[Document]
    work: Work
    end: float
    """When the scores are needed, in seconds on the monotonic clock."""
    use_cache: bool = True
    tenant: str = ""


async def score_prefix(
    job: ScoringJob,
    reranker: Reranker,
    estimator: LatencyEstimator,
    tracer: Tracer,
    clock: Callable[[], float] = time.monotonic,
) -> ScoredPrefix:
    """Score as many of the planned candidates as fit. Never raises for what a backend does."""
    return await _Scoring(job, reranker, estimator, tracer, clock).run()


class _Scoring:
    """One request at one reranker."""

    def __init__(
        self,
        job: ScoringJob,
        reranker: Reranker,
        estimator: LatencyEstimator,
        tracer: Tracer,
        clock: Callable[[], float],
    ) -> None:
        self._job = job
        self._reranker = reranker
        self._estimator = estimator
        self._tracer = tracer
        self._clock = clock
        self._planned = len(job.documents)
        self._chunks = Chunks(job.work, reranker.limits, estimator, clock)
        self._done = Progress()

    async def run(self) -> ScoredPrefix:
        """Chunk after chunk."""
        done = self._done
        try:
            with contextlib.ExitStack() as stack:
                place = self._join()
                if place is not None:
                    stack.enter_context(place)
                while len(done.scores) < self._planned and done.degradation is None:
                    await self._chunk(place)
        except TooLateError:
            done.degradation = self._out_of_time(queued=True)
        except RerankerError as error:  # no worker is left
            done.degradation = Degradation(reason_of(type(error)), str(error))
        return done.as_prefix()

    def _join(self) -> Place | None:
        """A place in the queue; None where there is nothing to wait for.

        Raises TooLateError when the mandatory part can't be in time, NotReadyError when no worker takes calls.
        """
        scheduler = self._reranker.scheduler
        if scheduler is None or not self._job.work.tokens_at(self._planned):
            return None
        state = self._reranker.availability()
        if state.state is not State.READY:
            raise NotReadyError(f"{self._reranker.identity.name}: {state.detail}")
        chunks = self._chunks
        # More than what would fit without a queue can't be asked of it.
        fitting = chunks.fitting(0, self._planned, self._remaining_ms())
        # What is a single chunk as a whole is not cut in two.
        one_chunk = chunks.p50_ms(0, self._planned) <= chunks.target_ms()
        chunks.mandatory = min(self._planned if one_chunk else scheduler.mandatory(self._planned), fitting)
        if not chunks.mandatory:
            return None
        if self._reranker.limits.shares_calls:
            most = scheduler.scheduling.requests_per_call
            scheduler.sharing = Sharing(self._estimator.pace(self._clock()), most, chunks.target_ms())
        now = self._clock()
        needs = self._estimator.predict(chunks.tokens(0, chunks.mandatory), now)
        return scheduler.join(
            Claim(
                Level.MANDATORY,
                self._job.end,
                needs_s=needs.p50_ms / 1e3,
                spare_s=(needs.p95_ms - needs.p50_ms) / 1e3,
                arrived=now,
                tokens=chunks.shareable_tokens(0, chunks.mandatory),
            )
        )

    async def _chunk(self, place: Place | None) -> None:
        """One chunk, when its turn has come. Raises TooLateError when that is not in time."""
        first = len(self._done.scores)
        mandatory = first < self._chunks.mandatory
        last = self._chunks.mandatory if mandatory else self._planned
        with contextlib.ExitStack() as stack:
            turn = None
            if place is not None:
                level = Level.MANDATORY if mandatory else Level.OPTIONAL
                asked = self._clock()
                try:
                    turn = stack.enter_context(await self._turn(place, level, first, last))
                finally:
                    waited_ms = (self._clock() - asked) * 1e3
                    self._done.waited_ms += waited_ms
                    if waited_ms >= _SHOWN_WAIT_MS:
                        self._show_wait(level, first, waited_ms)
            # Less than the whole mandatory part would be of little use, and take from those who can be served well.
            all_or_none = turn is not None and mandatory and turn.contended
            beside_tokens = turn.beside_tokens if turn else 0
            size = self._chunks.next_size(
                first, last, self._remaining_ms(), all_or_none=all_or_none, beside_tokens=beside_tokens
            )
            if size == 0:
                self._done.degradation = self._out_of_time()
                return
            self._done.take(await self._score(first, size, turn))

    async def _turn(self, place: Place, level: Level, first: int, last: int) -> Turn:
        """A worker for the next of the candidates [first, last), which are those of this level.

        Where they are one chunk, it may be computed in a call with those of other requests.
        """
        chunks = self._chunks
        needs_s, least_s = chunks.p50_ms(first, last) / 1e3, chunks.p95_ms(first, first + 1) / 1e3
        return await place.next_turn(level, needs_s, least_s, chunks.shareable_tokens(first, last))

    def _show_wait(self, level: Level, first: int, waited_ms: float) -> None:
        """A span for a wait that is over: most chunks wait for nobody, and should not pay for one."""
        began_ns = time.time_ns() - int(waited_ms * 1e6)
        attributes: dict[str, AttributeValue] = {
            "millirank.reranker": self._reranker.identity.name,
            "millirank.queue.level": level.name.lower(),
            "millirank.chunk.first": first,
        }
        self._tracer.start_span("queue", start_time=began_ns, attributes=attributes).end()

    def _remaining_ms(self) -> float:
        return (self._job.end - self._clock()) * 1e3

    def _out_of_time(self, queued: bool = False) -> Degradation:
        """Why another chunk would be too late: others were before it, time was used up, or it was always too short.

        ``queued``: it has just been seen that its turn does not come in time.
        """
        first, remaining_ms, waited_ms = len(self._done.scores), self._remaining_ms(), self._done.waited_ms
        scored = f"{first} of {self._planned} candidates scored; "
        if queued or (waited_ms and self._chunks.fitting(first, first + 1, remaining_ms + waited_ms)):
            words = f"{waited_ms:.1f} ms went by, and {max(0.0, remaining_ms):.1f} ms are left, while others are served"
            return Degradation(DegradationReason.OVERLOADED, scored + words)
        # Time that was too short from the beginning has not run out.
        reason = DegradationReason.BUDGET_EXHAUSTED if first else DegradationReason.BUDGET_TOO_SMALL
        return Degradation(reason, f"{scored}{max(0.0, remaining_ms):.1f} ms left are too few")

    async def _score(self, first: int, size: int, turn: Turn | None) -> Scored | Failure:
        job, reranker, estimator, clock = self._job, self._reranker, self._estimator, self._clock
        documents = job.documents[first : first + size]
        request = ScoreRequest(job.query, job.instruction, documents, job.use_cache, turn, job.tenant)
        own_tokens = self._chunks.tokens(first, first + size)
        tokens = own_tokens + (turn.beside_tokens if turn else 0)  # of the call
        now = clock()
        predicted = estimator.predict(tokens, now)
        if turn is not None:
            turn.expected_s = predicted.p50_ms / 1e3
        identity = reranker.identity
        with self._tracer.start_as_current_span(
            "score",
            # Both would put an exception's words on the span, and those may quote a document.
            record_exception=False,
            set_status_on_exception=False,
            attributes={
                "gen_ai.operation.name": "rerank",
                "gen_ai.request.model": identity.name,
                "millirank.strategy": identity.strategy,
                "millirank.reranker": identity.name,
                "millirank.chunk.first": first,
                "millirank.chunk.documents": size,
                "millirank.chunk.tokens_to_compute": own_tokens,
                "millirank.predicted_p95_ms": round(predicted.p95_ms, 3),
            },
        ) as span:
            try:
                scored = await reranker.score(request, job.end - now)
                if not all_finite(scored.scores, size):
                    raise BadOutputError(
                        f"{identity.name} answered {len(scored.scores)} scores for {size} documents, or not finite ones"
                    )
            except TimeoutError:
                waited_ms = (clock() - now) * 1e3
                estimator.observe_timeout(tokens, waited_ms, clock())
                words = (
                    f"{identity.name} did not answer for {size} candidates within the {waited_ms:.1f} ms that were left"
                )
                failure = Failure(Degradation(DegradationReason.BACKEND_TIMEOUT, words))
            except RerankerError as error:
                failure = Failure(Degradation(reason_of(type(error)), str(error)), error.micro_usd)
            else:
                # Time in the queue is not the model's: it is predicted separately.
                taken_ms = max(0.0, (clock() - now) * 1e3 - scored.queue_ms)
                if turn is None or turn.speaks_for_call:
                    self._learn(tokens, taken_ms, scored)
                if turn is not None and turn.share is not None:
                    scored = self._without_others(scored, own_tokens, turn.share)
                    span.set_attribute("millirank.chunk.other_requests", turn.share.others)
                span.set_attributes(
                    {
                        "millirank.queue_ms": round(scored.queue_ms + (turn.waited_ms if turn else 0.0), 3),
                        "millirank.compute_ms": round(scored.compute_ms, 3),
                        "millirank.chunk.cached": scored.cached,
                        "millirank.chunk.tokens": scored.tokens,
                    }
                )
                return scored
            span.set_attribute("millirank.degradation", failure.degradation.reason)
            return failure

    def _learn(self, tokens: int, taken_ms: float, scored: Scored) -> None:
        now = self._clock()
        if scored.shortfall and scored.shortfall_error is None:
            self._estimator.observe_timeout(tokens, taken_ms, now)
        elif tokens and scored.compute_ms and not scored.shortfall:  # failures and kept scores say nothing
            self._estimator.observe(tokens, taken_ms, now)

    def _without_others(self, scored: Scored, tokens: int, share: Share) -> Scored:
        """What a call took for other requests is time in the queue: this one would not take it alone."""
        pace = self._estimator.pace(self._clock())
        own = pace.at(tokens).p50_ms / pace.at(tokens + share.beside_tokens).p50_ms
        others_ms = scored.compute_ms * (1.0 - own)
        return replace(scored, queue_ms=scored.queue_ms + others_ms, compute_ms=scored.compute_ms - others_ms)
