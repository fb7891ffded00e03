"""One request, from its plan to its answer: mode, cache, anytime scoring. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from opentelemetry.trace import Tracer

from router.arms import Strategy
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
    Request,
    Timing,
)
from sidecar.outcomes import first_stage, reranked, signals_only, view, why_nothing, without_cost
from sidecar.planner import Plan, Planner
from sidecar.rerankers.base import Document, Reranker
from sidecar.scoring import ScoringJob, score_prefix
from sidecar.settings import Mode
from sidecar.shadow import Shadow

_log = logging.getLogger("millirank.pipeline")

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
            explanation=_with_revision(plan.explanation, outcome.model_revision),
            outcome=replace(outcome, ranked=view(outcome.ranked, request)),
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
            return first_stage(request, why_nothing(plan)), CacheStatus.MISS
        if self.draining:
            draining = Degradation(DegradationReason.DRAINING, "the sidecar is shutting down")
            return first_stage(request, draining), CacheStatus.MISS
        if self.mode is Mode.OBSERVE:
            self._observe(request, plan)
            unchanged = replace(first_stage(request, None), completeness=Completeness.FIRST_STAGE_ONLY)
            return unchanged, CacheStatus.MISS
        with self._slots.take(plan.end, self._clock()) as end:
            return await self._carry_out(request, replace(plan, end=end))

    async def _carry_out(self, request: Request, plan: Plan) -> tuple[Outcome, CacheStatus]:
        decision = plan.explanation.decision
        if decision.strategy is Strategy.SIGNALS:
            return signals_only(request, decision, plan.profile), CacheStatus.MISS
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
            return without_cost(kept), CacheStatus.HIT
        try:
            outcome, shared = await self._flights.run(
                key, lambda: self._compute(request, plan), timeout_s=max(0.0, plan.end - self._clock())
            )
        except TimeoutError:
            late = Degradation(DegradationReason.BUDGET_EXHAUSTED, "an equal request's answer came too late")
            return first_stage(request, late), CacheStatus.SHARED
        if not shared:
            if outcome.model_revision in ("", plan.explanation.model_revision):
                # Otherwise the model was replaced on the way: under this key the old one's answers are kept.
                self._cache.put(key, outcome)
            return outcome, CacheStatus.MISS
        if outcome.degradations:
            # The other caller had less time than this one may have: what is missing there may still fit here.
            return await self._compute(request, plan), CacheStatus.MISS
        return without_cost(outcome), CacheStatus.SHARED

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
                request.tenant,
            ),
            reranker,
            self._estimates.chunk[name],
            self._tracer,
            self._clock,
        )
        outcome = reranked(request, plan, prefix, reranker.limits.promotion_cap)
        tokens = work.tokens_at(len(prefix.scores))
        if prefix.degradation is None and prefix.score_ms and tokens:
            # Failures, partial work and kept scores do not teach: they say nothing about what the whole stage costs.
            # All of it is in the budget, so all of it teaches: messages, scoring and fusing, without the queue.
            now = self._clock()
            self._estimates.stage[name].observe(tokens, max(0.0, (now - started) * 1e3 - prefix.queue_ms), now)
        return outcome

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


def _with_revision(explanation: Explanation, revision: str) -> Explanation:
    """The explanation with the revision of the model that did score, where that is known only afterwards."""
    return replace(explanation, model_revision=revision) if revision else explanation
