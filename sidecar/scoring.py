"""Anytime scoring: candidates in first-stage order, chunk by chunk, until they are done or time is nearly up.

A chunk starts only if it is predicted to end in time. Whatever was scored when time is up is used. Where workers are
shared out (`sidecar.scheduler`), every chunk waits for its turn, and its size is chosen when that has come.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from router.admission import Claim, Level
from router.arms import State, Work
from router.fusion import all_finite
from router.latency import LatencyEstimator
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

# Small enough that a request in a hurry waits little, large enough that batching pays.
TARGET_CHUNK_MS = 15.0
# The mandatory part is not cut for less: two small chunks cost more than one that is a little too long.
_LONGEST_TARGET = 1.5
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
        self._mandatory = 0  # candidates that go before other requests' optional ones
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
        # More than what would fit without a queue can't be asked of it.
        fitting = self._fitting(0, self._planned, self._remaining_ms())
        # What is a single chunk as a whole is not cut in two.
        one_chunk = self._p50_ms(0, self._planned) <= TARGET_CHUNK_MS
        self._mandatory = min(self._planned if one_chunk else scheduler.mandatory(self._planned), fitting)
        if not self._mandatory:
            return None
        now = self._clock()
        needs = self._estimator.predict(self._tokens(0, self._mandatory), now)
        return scheduler.join(
            Claim(
                Level.MANDATORY,
                self._job.end,
                needs_s=needs.p50_ms / 1e3,
                spare_s=(needs.p95_ms - needs.p50_ms) / 1e3,
                arrived=now,
            )
        )

    async def _chunk(self, place: Place | None) -> None:
        """One chunk, when its turn has come. Raises TooLateError when that is not in time."""
        first = len(self._done.scores)
        mandatory = first < self._mandatory
        last = self._mandatory if mandatory else self._planned
        with contextlib.ExitStack() as stack:
            turn = None
            if place is not None:
                level = Level.MANDATORY if mandatory else Level.OPTIONAL
                asked = self._clock()
                try:
                    needs_s, least_s = self._p50_ms(first, last) / 1e3, self._p95_ms(first, first + 1) / 1e3
                    turn = stack.enter_context(await place.next_turn(level, needs_s, least_s))
                finally:
                    waited_ms = (self._clock() - asked) * 1e3
                    self._done.waited_ms += waited_ms
                    if waited_ms >= _SHOWN_WAIT_MS:
                        self._show_wait(level, first, waited_ms)
            # Less than the whole mandatory part would be of little use, and take from those who can be served well.
            all_or_none = turn is not None and mandatory and turn.contended
            size = self._next_size(first, last, all_or_none)
            if size == 0:
                self._done.degradation = self._out_of_time()
                return
            if turn is not None:
                turn.expected_s = self._p50_ms(first, first + size) / 1e3
            self._done.take(await self._score(first, size, turn))

    def _show_wait(self, level: Level, first: int, waited_ms: float) -> None:
        """A span for a wait that is over: most chunks wait for nobody, and should not pay for one."""
        began_ns = time.time_ns() - int(waited_ms * 1e6)
        attributes: dict[str, AttributeValue] = {
            "millirank.reranker": self._reranker.identity.name,
            "millirank.queue.level": level.name.lower(),
            "millirank.chunk.first": first,
        }
        self._tracer.start_span("queue", start_time=began_ns, attributes=attributes).end()

    def _next_size(self, first: int, last: int, all_or_none: bool) -> int:
        """How many of the candidates [first, last) the next chunk takes; 0 if not one is predicted to end in time.

        ``all_or_none``: 0, too, if not all of them are, with the chunks after this one.
        """
        remaining_ms = self._remaining_ms()
        limits = self._reranker.limits
        last = min(last, first + limits.max_chunk_documents)
        if limits.whole_list:
            # It runs as far as its own timeout allows: there is no smaller piece that could be tried instead.
            return last - first if remaining_ms > 0 else 0
        in_time = self._fitting(first, last, remaining_ms)
        if in_time < last - first and (limits.side_by_side or all_or_none):
            return 0
        if limits.side_by_side:
            return last - first
        whole = self._p50_ms(first, last) <= TARGET_CHUNK_MS * (_LONGEST_TARGET if last == self._mandatory else 1.0)
        in_one_chunk = (
            last - first
            if whole
            else bisect_right(range(first + 1, last + 1), TARGET_CHUNK_MS, key=lambda end: self._p50_ms(first, end))
        )
        return min(in_time, max(1, in_one_chunk))

    def _fitting(self, first: int, last: int, remaining_ms: float) -> int:
        """How many of the candidates [first, last) are predicted to be scored in time, at p95."""
        now = self._clock()
        tokens = tuple(accumulate(self._job.work.tokens[first:last], initial=self._fixed(first)))[1:]
        # Predictions grow with the tokens, so the bound is found by bisection. Nothing to compute takes no time.
        return bisect_right(
            tokens, remaining_ms, key=lambda count: self._estimator.predict(count, now).p95_ms if count else 0.0
        )

    def _p50_ms(self, first: int, last: int) -> float:
        tokens = self._tokens(first, last)
        return self._estimator.predict(tokens, self._clock()).p50_ms if tokens else 0.0

    def _p95_ms(self, first: int, last: int) -> float:
        tokens = self._tokens(first, last)
        return self._estimator.predict(tokens, self._clock()).p95_ms if tokens else 0.0

    def _tokens(self, first: int, last: int) -> int:
        return self._fixed(first) + sum(self._job.work.tokens[first:last])

    def _fixed(self, first: int) -> int:
        return self._job.work.fixed_tokens if first == 0 else 0

    def _remaining_ms(self) -> float:
        return (self._job.end - self._clock()) * 1e3

    def _out_of_time(self, queued: bool = False) -> Degradation:
        """Why another chunk would be too late: others were before it, time was used up, or it was always too short.

        ``queued``: it has just been seen that its turn does not come in time.
        """
        first, remaining_ms, waited_ms = len(self._done.scores), self._remaining_ms(), self._done.waited_ms
        scored = f"{first} of {self._planned} candidates scored; "
        if queued or (waited_ms and self._fitting(first, first + 1, remaining_ms + waited_ms)):
            words = f"{waited_ms:.1f} ms went by, and {max(0.0, remaining_ms):.1f} ms are left, while others are served"
            return Degradation(DegradationReason.OVERLOADED, scored + words)
        # Time that was too short from the beginning has not run out.
        reason = DegradationReason.BUDGET_EXHAUSTED if first else DegradationReason.BUDGET_TOO_SMALL
        return Degradation(reason, f"{scored}{max(0.0, remaining_ms):.1f} ms left are too few")

    async def _score(self, first: int, size: int, turn: Turn | None) -> Scored | Failure:
        job, reranker, estimator, clock = self._job, self._reranker, self._estimator, self._clock
        documents = job.documents[first : first + size]
        request = ScoreRequest(job.query, job.instruction, documents, job.use_cache, turn, job.tenant)
        tokens = self._tokens(first, first + size)
        now = clock()
        predicted = estimator.predict(tokens, now)
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
                "millirank.chunk.tokens_to_compute": tokens,
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
                span.set_attributes(
                    {
                        "millirank.queue_ms": round(scored.queue_ms + (turn.waited_ms if turn else 0.0), 3),
                        "millirank.compute_ms": round(scored.compute_ms, 3),
                        "millirank.chunk.cached": scored.cached,
                        "millirank.chunk.tokens": scored.tokens,
                    }
                )
                # Time in the queue is not the model's: it is predicted separately.
                taken_ms = max(0.0, (clock() - now) * 1e3 - scored.queue_ms)
                if scored.shortfall and scored.shortfall_error is None:
                    estimator.observe_timeout(tokens, taken_ms, clock())
                elif tokens and scored.compute_ms and not scored.shortfall:  # failures and kept scores say nothing
                    estimator.observe(tokens, taken_ms, clock())
                return scored
            span.set_attribute("millirank.degradation", failure.degradation.reason)
            return failure
