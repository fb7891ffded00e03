"""Anytime scoring: candidates in first-stage order, chunk by chunk, until they are done or time is nearly up.

A chunk starts only if it is predicted to end in time. Whatever was scored when time is up is used.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from opentelemetry.trace import Tracer

from router.arms import Work
from router.fusion import all_finite
from router.latency import LatencyEstimator
from sidecar.messages import Degradation, DegradationReason, Usage
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    Document,
    IndexUnavailableError,
    NotReadyError,
    Reranker,
    RerankerError,
    Scored,
    ScoreRequest,
)

# Small enough that a request in a hurry waits little, large enough that batching pays.
TARGET_CHUNK_MS = 15.0

_REASONS: tuple[tuple[type[RerankerError], DegradationReason], ...] = (
    (BadOutputError, DegradationReason.BAD_OUTPUT),
    (NotReadyError, DegradationReason.NOT_READY),
    (CircuitOpenError, DegradationReason.CIRCUIT_OPEN),
    (IndexUnavailableError, DegradationReason.INDEX_UNAVAILABLE),
    (BackendError, DegradationReason.BACKEND_ERROR),
    (RerankerError, DegradationReason.BACKEND_ERROR),
)


@dataclass(frozen=True, slots=True)
class ScoredPrefix:
    """Scores of the first ``len(scores)`` candidates, and why there are not more of them, if there should be.

    ``unscored`` are positions among them that the model left out.
    """

    scores: tuple[float, ...]
    unscored: frozenset[int]
    degradation: Degradation | None
    usage: Usage
    queue_ms: float
    score_ms: float


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


@dataclass(frozen=True, slots=True)
class _Failure:
    """A chunk without scores, and what its backend charges all the same."""

    degradation: Degradation
    micro_usd: float = 0.0


async def score_prefix(
    job: ScoringJob,
    reranker: Reranker,
    estimator: LatencyEstimator,
    tracer: Tracer,
    clock: Callable[[], float] = time.monotonic,
) -> ScoredPrefix:
    """Score as many of the planned candidates as fit. Never raises for what a backend does."""
    scores: list[float] = []
    unscored: set[int] = set()
    parts: list[Scored] = []
    degradation: Degradation | None = None
    wasted_micro_usd = 0.0
    while len(scores) < len(job.documents):
        remaining_ms = (job.end - clock()) * 1e3
        first = len(scores)
        size = _next_chunk(job.work, first, len(job.documents), remaining_ms, reranker, estimator, clock())
        if size == 0:
            # Time that was too short from the beginning has not run out.
            reason = DegradationReason.BUDGET_EXHAUSTED if first else DegradationReason.BUDGET_TOO_SMALL
            degradation = Degradation(
                reason,
                f"{first} of {len(job.documents)} candidates scored; {max(0.0, remaining_ms):.1f} ms left are too few",
            )
            break
        result = await _score_chunk(job, first, size, reranker, estimator, tracer, clock)
        if isinstance(result, _Failure):
            degradation = result.degradation
            wasted_micro_usd = result.micro_usd
            if degradation.reason is DegradationReason.BAD_OUTPUT:
                # A model that answers nonsense once is not trusted for the chunks before either.
                scores.clear()
                unscored.clear()
            break
        scores.extend(result.scores)
        unscored.update(first + position for position in result.unscored)
        parts.append(result)
        if result.shortfall:
            degradation = Degradation(_reason(result.shortfall_error), result.shortfall)
            break
    return ScoredPrefix(
        scores=tuple(scores),
        unscored=frozenset(unscored),
        degradation=degradation,
        usage=Usage(
            pairs=len(scores) - len(unscored),
            cached_pairs=min(len(scores) - len(unscored), sum(part.cached for part in parts)),
            tokens=sum(part.tokens for part in parts),
            micro_usd=round(sum(part.micro_usd for part in parts) + wasted_micro_usd),
        ),
        queue_ms=sum(part.queue_ms for part in parts),
        score_ms=sum(part.compute_ms for part in parts),
    )


def _reason(error: type[RerankerError] | None) -> DegradationReason:
    """What an error means for the answer; None stands for time that ran out."""
    if error is None:
        return DegradationReason.BUDGET_EXHAUSTED
    return next(reason for kind, reason in _REASONS if issubclass(error, kind))


def _next_chunk(
    work: Work,
    first: int,
    planned: int,
    remaining_ms: float,
    reranker: Reranker,
    estimator: LatencyEstimator,
    now: float,
) -> int:
    """How many candidates the next chunk takes; 0 if not even one is predicted to end in time."""
    if reranker.limits.whole_list:
        # It runs as far as its own timeout allows: there is no smaller piece that could be tried instead.
        return min(planned - first, reranker.limits.max_chunk_documents) if remaining_ms > 0 else 0
    last = min(planned, first + reranker.limits.max_chunk_documents)
    fixed = work.fixed_tokens if first == 0 else 0
    tokens = tuple(accumulate(work.tokens[first:last], initial=fixed))[1:]

    def p95_ms(count: int) -> float:
        return estimator.predict(count, now).p95_ms if count else 0.0  # nothing to compute takes no time

    if reranker.limits.side_by_side:
        return last - first if p95_ms(tokens[-1]) <= remaining_ms else 0
    # Predictions grow with the tokens, so both bounds are found by bisection.
    in_time = bisect_right(tokens, remaining_ms, key=p95_ms)
    in_one_chunk = bisect_right(
        tokens, TARGET_CHUNK_MS, key=lambda count: estimator.predict(count, now).p50_ms if count else 0.0
    )
    return min(in_time, max(1, in_one_chunk))


async def _score_chunk(
    job: ScoringJob,
    first: int,
    size: int,
    reranker: Reranker,
    estimator: LatencyEstimator,
    tracer: Tracer,
    clock: Callable[[], float],
) -> Scored | _Failure:
    documents = job.documents[first : first + size]
    request = ScoreRequest(job.query, job.instruction, documents, job.use_cache)
    fixed = job.work.fixed_tokens if first == 0 else 0
    tokens = fixed + sum(job.work.tokens[first : first + size])
    now = clock()
    predicted = estimator.predict(tokens, now)
    identity = reranker.identity
    with tracer.start_as_current_span(
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
            words = f"{identity.name} did not answer for {size} candidates within the {waited_ms:.1f} ms that were left"
            failure = _Failure(Degradation(DegradationReason.BACKEND_TIMEOUT, words))
        except RerankerError as error:
            failure = _Failure(Degradation(_reason(type(error)), str(error)), error.micro_usd)
        else:
            span.set_attributes(
                {
                    "millirank.queue_ms": round(scored.queue_ms, 3),
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
