"""One request, from its plan to its order: mode, cache, anytime scoring, fusion. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from opentelemetry.trace import Tracer

from router.arms import Strategy
from router.fusion import fuse, order
from router.policy import Decision, Reason, Verdict
from router.profile import SIGNALS_ARM, FusionWeights, Profile
from router.promotion import cap_promotions
from sidecar.answer_slots import AnswerSlots
from sidecar.cache import ResultCache, SingleFlight, result_key
from sidecar.estimates import Estimates
from sidecar.logs import place
from sidecar.messages import (
    Answer,
    CacheStatus,
    Completeness,
    Degradation,
    DegradationReason,
    Explanation,
    Outcome,
    Overrun,
    Ranked,
    Request,
    ScoreSource,
    Timing,
    Usage,
)
from sidecar.planner import Plan, Planner
from sidecar.rerankers.base import Document, Reranker
from sidecar.scoring import ScoringJob, score_prefix
from sidecar.settings import Mode
from sidecar.shadow import Shadow

_log = logging.getLogger("millirank.pipeline")

# A forced arm that calibration has not measured is ordered by its own scores alone.
_MODEL_ONLY = FusionWeights(rerank=1.0, signals={})
# Forced SIGNALS where the profile has no weights for what came along.
_RANK_ONLY = FusionWeights(rerank=0.0, signals={"rank": 1.0})
# Reranking behind an answer that is already out (mode observe) must not pile up.
_MAX_OBSERVED = 64
# Late enough for the answer to be on the wire.
_REMEMBER_AFTER_S = 0.01

_TIME_REASONS = frozenset(
    {
        DegradationReason.BUDGET_TOO_SMALL,
        DegradationReason.BUDGET_EXHAUSTED,
        DegradationReason.BACKEND_TIMEOUT,
        DegradationReason.OVERLOADED,
    }
)


class _PlanNotKeptError(Exception):
    """With Overrun.FAIL: the answer would be less than planned."""

    def __init__(self, degradation: Degradation) -> None:
        super().__init__(f"{degradation.detail} (overrun policy is FAIL)")
        self.reason = degradation.reason


class OverrunError(_PlanNotKeptError):
    """The budget ended before the plan was carried out."""


class UnavailableError(_PlanNotKeptError):
    """The backend is warming up, failing or draining."""


class Pipeline:
    """Decides and carries out. One instance serves all requests of the process, on one event loop."""

    def __init__(
        self,
        *,
        planner: Planner,
        rerankers: Mapping[str, Reranker],
        estimates: Estimates,
        cache: ResultCache,
        tracer: Tracer,
        mode: Mode,
        clock: Callable[[], float] = time.monotonic,
        shadow: Shadow | None = None,
        answer_ms: float = 0.0,
    ) -> None:
        """``answer_ms`` is what encoding and sending one answer takes the event loop."""
        self.mode = mode
        self.draining = False
        self._planner = planner
        self._rerankers = rerankers
        self._estimates = estimates
        self._cache = cache
        self._flights = SingleFlight()
        self._tracer = tracer
        self._clock = clock
        self._observed: set[asyncio.Task[None]] = set()
        self._shadow = shadow
        self._slots = AnswerSlots(answer_ms / 1e3)
        self._under_way = 0

    def explain(self, request: Request, deadline_left_ms: float | None, arrived: float) -> Explanation:
        """What `rerank` would decide now. Raises UnknownRerankerError or RerankerOffError for a forced arm."""
        return self._planner.plan(request, deadline_left_ms, arrived, self.mode).explanation

    async def rerank(self, request: Request, deadline_left_ms: float | None, arrived: float) -> Answer:
        """The candidates in their new order, in time. ``arrived`` is when the request's bytes were at hand.

        Raises UnknownRerankerError or RerankerOffError for a forced arm; OverrunError or UnavailableError where the
        caller prefers an error over a degraded answer.
        """
        self._under_way += 1
        try:
            return await self._answer(request, deadline_left_ms, arrived)
        finally:
            self._under_way -= 1

    async def close(self) -> None:
        """Stop what runs behind answers."""
        if self._shadow is not None:
            await self._shadow.close()
        for task in tuple(self._observed):
            task.cancel()
        await asyncio.gather(*self._observed, return_exceptions=True)

    async def _answer(self, request: Request, deadline_left_ms: float | None, arrived: float) -> Answer:
        plan = self._planner.plan(request, deadline_left_ms, arrived, self.mode)
        outcome, status = await self._outcome(request, plan)
        if request.overrun is Overrun.FAIL and outcome.degradations:
            worst = outcome.degradations[0]
            raise OverrunError(worst) if worst.reason in _TIME_REASONS else UnavailableError(worst)
        if plan.documents and not self.draining:
            asyncio.get_running_loop().call_later(_REMEMBER_AFTER_S, self._remember, plan.documents)
            if self._shadow is not None:
                self._shadow.consider(request, plan, outcome, self._has_work)
        return Answer(
            request_id=request.request_id,
            explanation=plan.explanation,
            outcome=replace(outcome, ranked=_view(outcome.ranked, request)),
            cache=status,
            timing=Timing(
                total_ms=(self._clock() - arrived) * 1e3,
                route_ms=plan.route_ms,
                queue_ms=outcome.queue_ms,
                score_ms=outcome.score_ms,
            ),
        )

    async def _outcome(self, request: Request, plan: Plan) -> tuple[Outcome, CacheStatus]:
        decision = plan.explanation.decision
        if decision.strategy is Strategy.NONE:
            return _first_stage(request, _why_nothing(plan)), CacheStatus.MISS
        if self.draining:
            draining = Degradation(DegradationReason.DRAINING, "the sidecar is shutting down")
            return _first_stage(request, draining), CacheStatus.MISS
        if self.mode is Mode.OBSERVE:
            self._observe(request, plan)
            unchanged = replace(_first_stage(request, None), completeness=Completeness.FIRST_STAGE_ONLY)
            return unchanged, CacheStatus.MISS
        with self._slots.take(plan.end, self._clock()) as end:
            return await self._carry_out(request, replace(plan, end=end))

    async def _carry_out(self, request: Request, plan: Plan) -> tuple[Outcome, CacheStatus]:
        decision = plan.explanation.decision
        if decision.strategy is Strategy.SIGNALS:
            return _signals(request, decision, plan.profile), CacheStatus.MISS
        if not request.use_cache:
            return await self._compute(request, plan), CacheStatus.MISS
        key = result_key(
            request,
            plan.documents,
            decision,
            plan.explanation.model_revision,
            plan.explanation.profile_revision,
        )
        kept = self._cache.get(key)
        if kept is not None:
            return _without_cost(kept), CacheStatus.HIT
        try:
            outcome, shared = await self._flights.run(
                key, lambda: self._compute(request, plan), timeout_s=max(0.0, plan.end - self._clock())
            )
        except TimeoutError:
            late = Degradation(DegradationReason.BUDGET_EXHAUSTED, "an equal request's answer came too late")
            return _first_stage(request, late), CacheStatus.SHARED
        if not shared:
            self._cache.put(key, outcome)
            return outcome, CacheStatus.MISS
        if outcome.degradations:
            # The other caller had less time than this one may have: what is missing there may still fit here.
            return await self._compute(request, plan), CacheStatus.MISS
        return _without_cost(outcome), CacheStatus.SHARED

    async def _compute(self, request: Request, plan: Plan) -> Outcome:
        decision = plan.explanation.decision
        name = decision.reranker
        reranker = self._rerankers[name]
        work = plan.work[name]
        started = self._clock()
        prefix = await score_prefix(
            ScoringJob(
                request.query,
                request.instruction,
                plan.documents[: decision.planned_k],
                work,
                plan.end,
                request.use_cache,
            ),
            reranker,
            self._estimates.chunk[name],
            self._tracer,
            self._clock,
        )
        count = len(prefix.scores)
        if prefix.degradation is None and prefix.score_ms and work.tokens_at(count):
            # Failures, partial work and kept scores do not teach: they say nothing about what the whole stage costs.
            elapsed_ms = max(0.0, (self._clock() - started) * 1e3 - prefix.queue_ms)
            self._estimates.stage[name].observe(work.tokens_at(count), elapsed_ms, self._clock())
        degradation = prefix.degradation
        if prefix.unscored and degradation is None:
            left_out = f"{name} has no score for {len(prefix.unscored)} of {count} candidates"
            degradation = Degradation(DegradationReason.INDEX_UNAVAILABLE, left_out)
        if count == len(prefix.unscored):
            # What was computed in vain still took its time and price.
            return replace(
                _first_stage(request, degradation),
                usage=prefix.usage,
                queue_ms=prefix.queue_ms,
                score_ms=prefix.score_ms,
            )
        arm = plan.profile.arms.get(name)
        weights = arm.weights.get(decision.signal_set, _MODEL_ONLY) if arm else _MODEL_ONLY
        positions = [position for position in range(count) if position not in prefix.unscored]
        raw = [prefix.scores[position] for position in positions]
        signals = [request.candidates[position].signals for position in positions]
        fused = fuse(raw, signals, positions, weights)
        return Outcome(
            ranked=_ranked(request, positions, fused, raw, ScoreSource.RERANKER, reranker.limits.promotion_cap),
            scored_k=len(positions),
            completeness=Completeness.PARTIAL if degradation else Completeness.FULL,
            degradations=(degradation,) if degradation else (),
            usage=prefix.usage,
            queue_ms=prefix.queue_ms,
            score_ms=prefix.score_ms,
        )

    def _has_work(self) -> bool:
        """Whether there is anything that work behind answers has to give way to; while draining, always."""
        return self.draining or self._under_way > 0

    def _remember(self, documents: tuple[Document, ...]) -> None:
        """Rerankers may prepare what they lacked, on idle time."""
        for reranker in self._rerankers.values():
            reranker.remember(documents)

    def _observe(self, request: Request, plan: Plan) -> None:
        """Mode observe: do the work behind the answer, for the trace and for the estimators."""
        if len(self._observed) >= _MAX_OBSERVED:
            return

        async def behind() -> None:
            try:
                await self._carry_out(request, plan)
            except Exception as error:  # noqa: BLE001 - nobody waits for it; left alone, asyncio would log its words
                _log.error("observing failed", extra={"request_id": request.request_id, "error": place(error)})

        task = asyncio.create_task(behind())
        self._observed.add(task)
        task.add_done_callback(self._observed.discard)


def _why_nothing(plan: Plan) -> Degradation | None:
    """NONE is a degradation only where something better was wanted and could not be had."""
    decision = plan.explanation.decision
    if plan.overloaded:
        return Degradation(
            DegradationReason.OVERLOADED, "no arm that is expected to help fits the time behind those who wait already"
        )
    if decision.reason is Reason.BUDGET_TOO_SMALL:
        return Degradation(
            DegradationReason.BUDGET_TOO_SMALL, "no arm that is expected to help fits the time or the price"
        )
    if decision.reason is Reason.NO_GAIN and any(not document.text for document in plan.documents):
        return Degradation(
            DegradationReason.INDEX_UNAVAILABLE, "documents have no text, and no index that is ready holds them all"
        )
    if decision.reason is Reason.NOT_READY:
        verdicts = {arm.verdict for arm in decision.considered}
        loading = Verdict.NOT_READY in verdicts
        reason = DegradationReason.NOT_READY if loading else DegradationReason.CIRCUIT_OPEN
        return Degradation(reason, "the arms that would help are not ready")
    return None


@functools.lru_cache(maxsize=64)
def _unranked(count: int) -> tuple[Ranked, ...]:
    """First-stage order; kept, because callers tend to send the same number of candidates each time."""
    return tuple(Ranked(index, None, None, ScoreSource.FIRST_STAGE) for index in range(count))


def _first_stage(request: Request, degradation: Degradation | None) -> Outcome:
    return Outcome(
        ranked=_unranked(len(request.candidates)),
        scored_k=0,
        completeness=Completeness.FIRST_STAGE_ONLY if degradation else Completeness.FULL,
        degradations=(degradation,) if degradation else (),
    )


def _signals(request: Request, decision: Decision, profile: Profile) -> Outcome:
    count = decision.planned_k
    arm = profile.arms.get(SIGNALS_ARM)
    weights = arm.weights.get(decision.signal_set, _RANK_ONLY) if arm else _RANK_ONLY
    fused = fuse(None, [candidate.signals for candidate in request.candidates[:count]], range(count), weights)
    return Outcome(
        ranked=_ranked(request, range(count), fused, None, ScoreSource.SIGNALS),
        scored_k=count,
        completeness=Completeness.FULL,
    )


def _ranked(
    request: Request,
    scored: Sequence[int],
    fused: Sequence[float],
    raw: Sequence[float] | None,
    source: ScoreSource,
    promotion_cap: int = 0,
) -> tuple[Ranked, ...]:
    """The scored candidates in their new order, the rest behind them in first-stage order.

    With ``promotion_cap`` nobody stands more than so many places above its first-stage rank, whatever the scores say.
    """
    places = {position: place for place, position in enumerate(scored)}
    ranked = []
    wished = order(fused, scored, len(request.candidates))
    for position in cap_promotions(wished, promotion_cap) if promotion_cap else wished:
        place = places.get(position)
        if place is None:
            ranked.append(Ranked(position, None, None, ScoreSource.FIRST_STAGE))
        else:
            ranked.append(Ranked(position, fused[place], raw[place] if raw else None, source))
    return tuple(ranked)


def _without_cost(outcome: Outcome) -> Outcome:
    """What a kept or shared answer costs whom it is given to: nothing."""
    pairs = outcome.usage.pairs
    return replace(outcome, usage=Usage(pairs=pairs, cached_pairs=pairs), queue_ms=0.0, score_ms=0.0)


def _view(ranked: tuple[Ranked, ...], request: Request) -> tuple[Ranked, ...]:
    """``min_score`` and ``top_n`` are the caller's view of an outcome, applied last."""
    if request.min_score is not None:
        least = request.min_score
        ranked = tuple(item for item in ranked if item.raw_score is None or item.raw_score >= least)
    return ranked[: request.top_n] if request.top_n else ranked
