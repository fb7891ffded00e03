"""A cascade: one reranker over all candidates, a dearer one over the best of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from opentelemetry.trace import Tracer

from router.arms import Availability, State, Strategy, Work
from router.latency import Pace
from router.profile import Profile
from sidecar.estimates import Estimates
from sidecar.messages import DegradationReason
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    Document,
    Identity,
    IndexUnavailableError,
    Limits,
    NotReadyError,
    Reranker,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.cascade_scale import best_positions, one_scale
from sidecar.scored_prefix import ScoredPrefix
from sidecar.scoring import ScoringJob, score_prefix

# As many candidates as any request may have.
_MOST_DOCUMENTS = 1_000
# A second stage that hangs until the last moment would make the first one's answer late, and so cost it, too: it ends
# earlier by this share of what is left, and by this time at least.
_SPARED_SHARE = 0.05
_SPARED_S = 0.002
_WORST_FIRST = (State.OFF, State.CIRCUIT_OPEN, State.WARMING)
# What a stage could not do, as the error that a reranker raises for it. Other reasons are a lack of time.
_ERRORS: Mapping[DegradationReason, type[RerankerError]] = {
    DegradationReason.BACKEND_ERROR: BackendError,
    DegradationReason.BAD_OUTPUT: BadOutputError,
    DegradationReason.NOT_READY: NotReadyError,
    DegradationReason.CIRCUIT_OPEN: CircuitOpenError,
    DegradationReason.INDEX_UNAVAILABLE: IndexUnavailableError,
}


class CascadeReranker:
    """Implements the `Reranker` protocol with two other rerankers, which it neither starts nor closes.

    Each stage is scored as the pipeline scores any arm (`sidecar.scoring`): in chunks, with a span for each, and with
    estimators of the cascade's own, since a stage meets other lists in here than alone. The second stage begins only
    if it is predicted to end in time; cut short, the answer is the last stage that was completed, or, if that is none,
    the part of the list that the first one has scored.

    A cascade's tokens are microseconds: two models' tokens have no common measure but time.
    """

    def __init__(
        self,
        name: str,
        first: Reranker,
        second: Reranker,
        second_k: int,
        *,
        profile: Profile,
        tracer: Tracer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``second_k`` candidates, the best by ``first``, are seen by ``second`` too; ``profile`` has the stages'
        latency priors. Raises ValueError where stages or ``second_k`` make no cascade.
        """
        for field, stage in (("first", first), ("second", second)):
            if stage.identity.strategy is Strategy.CASCADE:
                raise ValueError(f"reranker {name!r}: {field} is {stage.identity.name!r}, a cascade itself")
        if first.identity.name == second.identity.name:
            raise ValueError(f"reranker {name!r}: first and second are both {first.identity.name!r}")
        if second_k < 2:
            raise ValueError(f"reranker {name!r}: second_k is {second_k}; it must be 2 or more")
        self._name = name
        self._first = first
        self._second = second
        # A stage that ranks listwise can't be given its list in pieces.
        self._second_k = min(second_k, second.limits.max_chunk_documents) if second.limits.whole_list else second_k
        self._tracer = tracer
        self._clock = clock
        self._measured: tuple[Sequence[tuple[int, float]], ...] = ((), ())  # by the stages
        self._samples: Sequence[tuple[int, float]] = ()  # made of that
        self._estimates = Estimates({stage.identity.name: stage for stage in (first, second)}, profile, clock)

    @property
    def identity(self) -> Identity:
        """``revision`` changes with either stage's and with ``second_k``."""
        return Identity(self._name, Strategy.CASCADE, self._revision())

    @property
    def limits(self) -> Limits:
        """The whole list at once: only then it is known who is best. The stricter promotion cap of the two holds."""
        first, second = self._first.limits, self._second.limits
        caps = [limits.promotion_cap for limits in (first, second) if limits.promotion_cap]
        return Limits(
            max_chunk_documents=first.max_chunk_documents if first.whole_list else _MOST_DOCUMENTS,
            whole_list=True,
            reads_text=first.reads_text or second.reads_text,
            promotion_cap=min(caps, default=0),
        )

    def availability(self) -> Availability:
        """READY only if both stages are; else the worse state, with the reasons of both."""
        stages = {stage.identity.name: stage.availability() for stage in (self._first, self._second)}
        reasons = [f"{name}: {own.detail or own.state}" for name, own in stages.items() if own.state is not State.READY]
        for state in _WORST_FIRST:
            if any(own.state is state for own in stages.values()):
                return Availability(state, "; ".join(reasons))
        return Availability(State.READY)

    def work(self, request: ScoreRequest) -> Work:
        """What both stages are predicted to take, in microseconds (median, without the queue), as tokens.

        A candidate costs its part of the first stage; the first ``second_k`` also cost the mean candidate's part of
        the second stage each, since nobody knows yet who is best. What each stage costs beside its candidates is
        ``fixed_tokens``. The price per token is the dearest over the first k candidates, whatever k may be scored and
        whoever of them is best, so that no k is promised cheaper than it is.
        """
        documents = request.documents
        first, second = self._first.work(request), self._second.work(request)
        refusals = [work.refusal for work in (first, second) if work.refusal]
        if refusals or not documents:
            return Work((), refusal="; ".join(refusals))
        pace_1, pace_2 = self._pace(self._first), self._pace(self._second)
        seen_twice = min(self._second_k, len(documents))
        share_us = 1e3 * pace_2.p50_ms_per_token * sum(second.tokens) / len(documents)
        fixed_us = 1e3 * (pace_1.at(first.fixed_tokens).p50_ms + pace_2.at(second.fixed_tokens).p50_ms)
        tokens = tuple(
            math.ceil(1e3 * pace_1.p50_ms_per_token * own + (share_us if rank < seen_twice else 0.0))
            for rank, own in enumerate(first.tokens)
        )
        fixed = math.ceil(fixed_us)
        return Work(
            tokens,
            fixed_tokens=fixed,
            micro_usd_per_token=_dearest(tokens, fixed, first, second, self._second_k),
            warm=first.warm,
        )

    async def start(self) -> None:
        """Nothing: the stages are rerankers of their own."""

    @property
    def scheduler(self) -> None:
        """None: each stage waits for its own turns."""

    def queue_ms(self, end: float = math.inf) -> float:
        """Both stages' queues."""
        return self._first.queue_ms(end) + self._second.queue_ms(end)

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """The stages' own, their tokens as the microseconds predicted for them."""
        stages = (self._first, self._second)
        measured = tuple(stage.warm_up_samples() for stage in stages)
        if any(new is not old for new, old in zip(measured, self._measured, strict=True)):
            self._measured = measured
            self._samples = [
                (math.ceil(1e3 * self._pace(stage).at(tokens).p50_ms), elapsed_ms)
                for stage, samples in zip(stages, measured, strict=True)
                for tokens, elapsed_ms in samples
            ]
        return self._samples

    def remember(self, documents: Sequence[Document]) -> None:
        """Nothing: the stages are told themselves."""

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Score all candidates with the first stage, then the best ``second_k`` of them with the second.

        The scores are on the first stage's scale (see `one_scale`). Where the second stage was not begun, not completed
        or failed, they are the first stage's, and ``shortfall`` and ``shortfall_error`` say why; where the first one
        was cut short, those that it has not reached are ``unscored``.

        Raises what the first stage fails with before it has scored anything, as TimeoutError or a `RerankerError`.
        """
        if not request.documents:
            return Scored(scores=(), tokens=0)
        if timeout_s <= 0:
            raise TimeoutError(f"{self._name}: no time left to score anything")
        end = self._clock() + timeout_s
        first = await self._run(self._first, self._job(self._first, request, request.documents, end))
        if first.degradation is not None or first.unscored:
            return self._cut_short(first, len(request.documents))
        top = best_positions(first.scores, self._second_k)
        end -= max(_SPARED_S, _SPARED_SHARE * (end - self._clock()))
        job = self._job(self._second, request, [request.documents[position] for position in top], end)
        late = self._predicted_late(job)
        if late:
            return _answer(first.scores, (first,), f"{self._name}: first stage only; {late}")
        second = await self._run(self._second, job)
        if second.degradation is not None or second.unscored:
            words = f"{self._name}: first stage only; {_why(second)}"
            return _answer(first.scores, (first, second), words, _error(second))
        scored = _answer(one_scale(first.scores, top, second.scores), (first, second))
        return replace(scored, revision=self._revision(first.revision, second.revision))

    async def close(self) -> None:
        """Nothing: the stages are closed by whoever started them."""

    def _revision(self, first: str = "", second: str = "") -> str:
        """That of a cascade of these stages' revisions; '' stands for what the stage says it is."""
        parts = (first or self._first.identity.revision, second or self._second.identity.revision, str(self._second_k))
        return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    @staticmethod
    def _job(stage: Reranker, request: ScoreRequest, documents: Sequence[Document], end: float) -> ScoringJob:
        work = stage.work(replace(request, documents=documents))
        return ScoringJob(request.query, request.instruction, documents, work, end, request.use_cache, request.tenant)

    async def _run(self, stage: Reranker, job: ScoringJob) -> ScoredPrefix:
        """One stage, which teaches what such a stage costs if it was completed, and not from kept scores."""
        name = stage.identity.name
        started = self._clock()
        prefix = await score_prefix(job, stage, self._estimates.chunk[name], self._tracer, self._clock)
        if prefix.degradation is None and prefix.score_ms:
            now = self._clock()
            elapsed_ms = max(0.0, (now - started) * 1e3 - prefix.queue_ms)
            self._estimates.stage[name].observe(job.work.tokens_at(len(job.documents)), elapsed_ms, now)
        return prefix

    def _predicted_late(self, job: ScoringJob) -> str:
        """Why the second stage can't end in time, in words; '' if it is predicted to."""
        count = len(job.documents)
        predicted = self._pace(self._second).at(job.work.tokens_at(count))
        needed_ms = self._second.queue_ms(job.end) + predicted.p95_ms
        left_ms = max(0.0, (job.end - self._clock()) * 1e3)
        if needed_ms <= left_ms:
            return ""
        name = self._second.identity.name
        return f"{name} would need {needed_ms:.1f} ms (p95) for {count} candidates, {left_ms:.1f} ms are left"

    def _pace(self, stage: Reranker) -> Pace:
        self._estimates.seed()
        return self._estimates.stage[stage.identity.name].pace(self._clock())

    def _cut_short(self, first: ScoredPrefix, count: int) -> Scored:
        """What the first stage has scored of ``count`` candidates. Raises what it failed with before it had any."""
        if not first.scores and first.degradation is not None:
            reason = first.degradation.reason
            words = f"{self._name}: {first.degradation.detail}"
            if reason in _ERRORS:
                raise _ERRORS[reason](words, micro_usd=first.usage.micro_usd)
            if reason is DegradationReason.BACKEND_TIMEOUT:
                raise TimeoutError(words)
        missing = range(len(first.scores), count)
        return _answer(
            first.scores + (0.0,) * len(missing),
            (first,),
            f"{self._name}: part of the first stage only; {_why(first)}",
            _error(first),
            first.unscored.union(missing),
        )


def _why(stage: ScoredPrefix) -> str:
    """Why a stage was not completed, in words."""
    return stage.degradation.detail if stage.degradation else f"{len(stage.unscored)} candidates were left out"


def _error(stage: ScoredPrefix) -> type[RerankerError] | None:
    """Why a stage was not completed, as an error; None for a lack of time."""
    return _ERRORS.get(stage.degradation.reason) if stage.degradation else BadOutputError


def _answer(
    scores: tuple[float, ...],
    stages: Sequence[ScoredPrefix],
    shortfall: str = "",
    error: type[RerankerError] | None = None,
    unscored: frozenset[int] = frozenset(),
) -> Scored:
    """``scores``, with what all ``stages`` have used."""
    return Scored(
        scores=scores,
        tokens=sum(stage.usage.tokens for stage in stages),
        cached=sum(stage.usage.cached_pairs for stage in stages),
        queue_ms=sum(stage.queue_ms for stage in stages),
        compute_ms=sum(stage.score_ms for stage in stages),
        micro_usd=sum(stage.usage.micro_usd for stage in stages),
        unscored=unscored,
        shortfall=shortfall,
        shortfall_error=error,
    )


def _dearest(tokens: Sequence[int], fixed: int, first: Work, second: Work, second_k: int) -> float:
    """Micro-USD per token of the cascade where that is dearest: at some k, with the longest texts seen twice."""
    if not first.micro_usd_per_token and not second.micro_usd_per_token:
        return 0.0
    dearest, first_tokens, total, longest = 0.0, first.fixed_tokens, fixed, list[int]()
    for once, twice, both in zip(first.tokens, second.tokens, tokens, strict=True):
        first_tokens += once
        total += both
        longest = sorted((*longest, twice), reverse=True)[:second_k]
        second_tokens = second.fixed_tokens + sum(longest)
        micro_usd = first_tokens * first.micro_usd_per_token + second_tokens * second.micro_usd_per_token
        dearest = max(dearest, micro_usd / max(1, total))
    return dearest
