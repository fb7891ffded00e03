"""The first half of a request: what it is, what may be spent, and what the router makes of it. Computes nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from opentelemetry.trace import INVALID_SPAN, Span, Tracer

from router.arms import State, Strategy, Work
from router.budget import Budget, spendable
from router.policy import ConsideredArm, Decision, Reason, RerankerView, Verdict, choose
from router.profile import Profile
from router.traits import Traits, extract
from sidecar.decision_log import Asked, DecisionLog
from sidecar.estimates import Estimates
from sidecar.loop_lag import LoopLag
from sidecar.messages import Explanation, Request, new_id
from sidecar.profiles import Profiles
from sidecar.rerankers.base import Document, Reranker, ScoreRequest
from sidecar.settings import BudgetSettings, Mode

# Fusing the signals is plain arithmetic on the event loop.
_SIGNALS_BASE_MS = 0.05
_SIGNALS_MS_PER_DOCUMENT = 0.004
# Arms on a span, and characters of each.
_MOST_LINES = 64
_LONGEST_LINE = 300
_NO_WORK = Work(tokens=())


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for one request. ``end`` is when it must be done, in seconds on the monotonic clock.

    ``overloaded``: nothing is, but without those who are before it in a queue an arm would have fitted.
    """

    explanation: Explanation
    profile: Profile
    documents: tuple[Document, ...]
    work: Mapping[str, Work]
    end: float
    route_ms: float
    overloaded: bool = False


class Planner:
    """Turns requests into plans."""

    def __init__(
        self,
        *,
        rerankers: Mapping[str, Reranker],
        assumed_gains: Mapping[str, float],
        profiles: Profiles,
        estimates: Estimates,
        budget: BudgetSettings,
        tracer: Tracer,
        clock: Callable[[], float] = time.monotonic,
        decision_log: DecisionLog | None = None,
        loop_lag: LoopLag | None = None,
    ) -> None:
        self._rerankers = rerankers
        self._assumed_gains = assumed_gains
        self._profiles = profiles
        self._estimates = estimates
        self._budget = budget
        self._tracer = tracer
        self._clock = clock
        self._decision_log = decision_log
        self._loop_lag = loop_lag or LoopLag()

    def use(self, profiles: Profiles) -> None:
        """Decide with these from now on; a plan that was made before keeps the profile that it was made with."""
        self._profiles = profiles

    def plan(self, request: Request, deadline_left_ms: float | None, arrived: float, mode: Mode) -> Plan:
        """Decide. Raises UnknownRerankerError or RerankerOffError for a forced arm."""
        # Where models are out of the question there is nothing to weigh: no span, no digests, nobody is asked.
        open_question = mode is not Mode.OFF and request.routing.strategy not in (Strategy.NONE, Strategy.SIGNALS)
        with self._route_span() if open_question else contextlib.nullcontext(INVALID_SPAN) as span:
            # The loop that is late now will be late, too, when the answer is to be sent.
            reserve_ms = self._budget.reserve_ms + self._loop_lag.recent_ms
            budget_ms = _budget_left_ms(request, deadline_left_ms)
            budget = spendable(budget_ms, deadline_left_ms, self._budget.default_ms, reserve_ms)
            end = arrived + budget.spendable_ms / 1e3
            profile = self._profiles.select(request.corpus)
            traits = _traits(request)
            documents = _as_documents(request) if open_question else ()
            rerankers = self._rerankers if open_question else {}
            unreadable = _without_text(documents)
            asked = ScoreRequest(request.query, request.instruction, documents, request.use_cache)
            work = {name: _work(reranker, asked, unreadable) for name, reranker in rerankers.items()}
            decision_id = new_id()
            decision = (
                _mode_off() if mode is Mode.OFF else self._decide(decision_id, request, traits, profile, work, end)
            )
            reranker = self._rerankers.get(decision.reranker)
            explanation = Explanation(
                decision_id=decision_id,
                decision=decision,
                traits=traits,
                profile_corpus=profile.corpus,
                profile_revision=profile.revision,
                model_revision="" if reranker is None else reranker.identity.revision,
                mode=mode,
                spendable_ms=budget.spendable_ms,
            )
            if span.is_recording():
                _describe(span, explanation, budget)
        overloaded = decision.reason is Reason.BUDGET_TOO_SMALL and self._fits_without_queue(decision, end)
        return Plan(explanation, profile, documents, work, end, (self._clock() - arrived) * 1e3, overloaded)

    def _fits_without_queue(self, decision: Decision, end: float) -> bool:
        left_ms = (end - self._clock()) * 1e3
        shortest = {
            arm.reranker: arm.p95_ms
            for arm in reversed(decision.considered)
            if arm.reranker and arm.verdict is Verdict.OVER_BUDGET
        }
        return any(p95_ms - self._rerankers[name].queue_ms(end) <= left_ms for name, p95_ms in shortest.items())

    def _decide(
        self,
        decision_id: str,
        request: Request,
        traits: Traits,
        profile: Profile,
        work: Mapping[str, Work],
        end: float,
    ) -> Decision:
        """Choose among the rerankers that said in ``work`` what this request would cost them."""
        self._estimates.seed()
        now = self._clock()
        views = [self._view(name, self._rerankers[name], todo, now, end) for name, todo in work.items()]
        purse = self._budget.max_cost_micro_usd if request.max_micro_usd is None else request.max_micro_usd
        # What looking at the request has used up so far can't be spent again.
        spendable_ms = max(0.0, (end - self._clock()) * 1e3)
        fusing_ms = signals_ms(traits.documents)
        decision = choose(
            traits=traits,
            spendable_ms=spendable_ms,
            max_micro_usd=purse,
            routing=request.routing,
            profile=profile,
            rerankers=views,
            signals_ms=fusing_ms,
        )
        if self._decision_log is not None:
            asked = Asked(traits, spendable_ms, purse, request.routing, views, fusing_ms)
            self._decision_log.record(decision_id, asked, profile, decision)
        return decision

    def _view(self, name: str, reranker: Reranker, work: Work, now: float, end: float) -> RerankerView:
        limits, scheduler = reranker.limits, reranker.scheduler
        return RerankerView(
            name=name,
            strategy=reranker.identity.strategy,
            availability=reranker.availability(),
            work=work,
            pace=self._estimates.pace(name, work, now),
            queue_ms=reranker.queue_ms(end),
            assumed_gain=self._assumed_gains.get(name),
            whole_list=limits.whole_list,
            # A listwise call can't be cut into chunks, so its chunk limit bounds the whole arm.
            max_documents=limits.max_chunk_documents if limits.whole_list else None,
            queued_k=0 if scheduler is None else scheduler.queued_k,
        )

    def _route_span(self) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span("route", record_exception=False, set_status_on_exception=False)


def signals_ms(documents: int) -> float:
    """What fusing the signals of so many candidates takes, in ms."""
    return _SIGNALS_BASE_MS + _SIGNALS_MS_PER_DOCUMENT * documents


def _budget_left_ms(request: Request, deadline_left_ms: float | None) -> float | None:
    """The budget less what was spent before the request was read: twenty that come at once wait for each other, and
    before an event loop that can't keep up all do. gRPC's deadline knows how long."""
    if request.budget_ms is None or request.deadline_slack_ms is None or deadline_left_ms is None:
        return request.budget_ms
    return max(0.0, min(request.budget_ms, deadline_left_ms - request.deadline_slack_ms))


def _traits(request: Request) -> Traits:
    candidates = request.candidates
    if request.routing.strategy is Strategy.NONE:
        # Nothing depends on them, and nobody may have read the texts.
        return Traits(0, False, False, len(candidates), 0.0, (), 0.0)
    lengths = [len(candidate.text) for candidate in candidates]
    return extract(request.query, lengths, [candidate.signals for candidate in candidates])


def _as_documents(request: Request) -> tuple[Document, ...]:
    """The candidates as rerankers see them, with the digests of their texts."""
    # The tenant is part of every digest, so that nothing that is kept under one is found for another tenant.
    tenant = hashlib.blake2b(request.tenant.encode(), digest_size=32).digest() if request.tenant else b""
    digest = functools.partial(hashlib.blake2b, digest_size=16, key=tenant)
    return tuple(
        Document(candidate.id, candidate.text, digest(candidate.text.encode()).digest(), candidate.indexed_ref)
        for candidate in request.candidates
    )


def _without_text(documents: Sequence[Document]) -> Work | None:
    """What a reranker that reads texts can do with documents of which some have none: nothing."""
    missing = sum(not document.text for document in documents)
    return Work((), refusal=f"{missing} of {len(documents)} documents have no text") if missing else None


def _work(reranker: Reranker, request: ScoreRequest, unreadable: Work | None) -> Work:
    if reranker.availability().state is State.OFF:
        return _NO_WORK  # it may have nothing to answer with
    if unreadable is not None and reranker.limits.reads_text:
        return unreadable
    return reranker.work(request)


def _mode_off() -> Decision:
    return Decision(
        strategy=Strategy.NONE,
        reranker="",
        planned_k=0,
        reason=Reason.MODE_OFF,
        predicted_p50_ms=0.0,
        predicted_p95_ms=0.0,
        expected_gain=0.0,
        considered=(),
        signal_set="",
    )


def _describe(span: Span, explanation: Explanation, budget: Budget) -> None:
    """The decision on the trace: what was taken, what it should cost, and every arm that was not taken."""
    decision = explanation.decision
    span.set_attributes(
        {
            "millirank.mode": explanation.mode,
            "millirank.strategy": decision.strategy,
            "millirank.reranker": decision.reranker,
            "millirank.planned_k": decision.planned_k,
            "millirank.reason": decision.reason,
            "millirank.budget_ms": round(budget.spendable_ms, 3),
            "millirank.budget_limited_by": budget.limited_by,
            "millirank.predicted_p50_ms": round(decision.predicted_p50_ms, 3),
            "millirank.predicted_p95_ms": round(decision.predicted_p95_ms, 3),
            "millirank.expected_gain": round(decision.expected_gain, 5),
            "millirank.signals": decision.signal_set,
            "millirank.documents": explanation.traits.documents,
            "millirank.query_words": explanation.traits.query_words,
            "millirank.profile_corpus": explanation.profile_corpus,
            "millirank.considered": _arm_lines(decision.considered),
        }
    )


def _arm_lines(considered: Sequence[ConsideredArm]) -> list[str]:
    """One line for each arm, bounded: many rerankers at many k must not make a span that collectors refuse."""
    lines = [f"{arm.reranker or arm.strategy}@{arm.rerank_k}: {arm.verdict}: {arm.detail}" for arm in considered]
    shown = [line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…" for line in lines[:_MOST_LINES]]
    return [*shown, f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else shown
