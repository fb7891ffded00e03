"""Protobuf answers -> plain dataclasses, after checking that they can be used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration

from millirank._decision import ConsideredArm, Decision, DecisionReason, Mode, Strategy, Verdict
from millirank._ranking import CacheStatus, Degradation, Outcome, Ranked, Ranking, Reason, Timing, Usage
from millirank.v1 import decision_pb2
from millirank.v1 import rerank_service_pb2 as pb

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

# A third of the time that Ranked(...) takes, for every candidate of every answer.
_make = tuple.__new__

_OUTCOMES = {
    pb.COMPLETENESS_FULL: Outcome.RANKED,
    pb.COMPLETENESS_PARTIAL: Outcome.PARTIAL,
    pb.COMPLETENESS_FIRST_STAGE_ONLY: Outcome.FIRST_STAGE,
}


class UnusableAnswerError(Exception):
    """The sidecar's answer is no ordering of the candidates that were sent. Never leaves this package."""


class _ProtoEnum(Protocol):
    """The part of a generated enum that is needed here."""

    def items(self) -> Sequence[tuple[str, int]]: ...


def first_stage(documents: Sequence[T], top_n: int) -> tuple[Ranked[T], ...]:
    """The first ``top_n`` candidates (0: all) as they came, unscored."""
    kept = documents[:top_n] if top_n else documents
    return tuple(Ranked(document, index) for index, document in enumerate(kept))


def ranking_from(
    response: pb.RerankResponse,
    documents: Sequence[T],
    *,
    top_n: int,
    may_omit: bool,
    elapsed_ms: float,
) -> Ranking[T]:
    """The ranking in ``response`` over ``documents`` (in the order in which they were sent).

    ``may_omit``: documents under a ``min_score`` may be missing. Raises `UnusableAnswerError` where the
    results are no prefix of a permutation of the candidates, a score is not finite, or the completeness is
    unknown.
    """
    outcome = _OUTCOMES.get(response.completeness)
    if outcome is None:
        raise UnusableAnswerError(f"completeness {response.completeness} is not known to this client")
    return Ranking(
        results=_results(response.results, documents, top_n=top_n, may_omit=may_omit),
        outcome=outcome,
        degradations=tuple(
            Degradation(_DEGRADATIONS.get(each.reason, Reason.INTERNAL), each.detail) for each in response.degradations
        ),
        request_id=response.request_id,
        elapsed_ms=elapsed_ms,
        decision=decision_from(response.decision),
        timing=Timing(
            total_ms=_ms(response.timing.total),
            route_ms=_ms(response.timing.route),
            queue_ms=_ms(response.timing.queue),
            score_ms=_ms(response.timing.score),
        ),
        usage=Usage(
            pairs=response.usage.pairs,
            cached_pairs=response.usage.cached_pairs,
            tokens=response.usage.tokens,
            cost_micro_usd=response.usage.cost_micro_usd,
        ),
        cache_status=_CACHE_STATUSES.get(response.cache_status, CacheStatus.UNSPECIFIED),
    )


def decision_from(decision: decision_pb2.Decision) -> Decision:
    """The decision as a dataclass; enum values of a newer sidecar become UNSPECIFIED."""
    return Decision(
        id=decision.id,
        strategy=_STRATEGIES.get(decision.strategy, Strategy.UNSPECIFIED),
        reranker=decision.reranker,
        model_revision=decision.model_revision,
        profile_corpus=decision.profile_corpus,
        profile_revision=decision.profile_revision,
        planned_k=decision.planned_k,
        scored_k=decision.scored_k,
        reason=_DECISION_REASONS.get(decision.reason, DecisionReason.UNSPECIFIED),
        considered=tuple(
            ConsideredArm(
                strategy=_STRATEGIES.get(arm.strategy, Strategy.UNSPECIFIED),
                reranker=arm.reranker,
                rerank_k=arm.rerank_k,
                predicted_p50_ms=_ms(arm.predicted_p50),
                predicted_p95_ms=_ms(arm.predicted_p95),
                expected_gain=arm.expected_gain,
                predicted_cost_micro_usd=arm.predicted_cost_micro_usd,
                verdict=_VERDICTS.get(arm.verdict, Verdict.UNSPECIFIED),
                detail=arm.detail,
            )
            for arm in decision.considered
        ),
        mode=_MODES.get(decision.mode, Mode.UNSPECIFIED),
        spendable_ms=_ms(decision.spendable),
    )


def _results(
    results: Sequence[pb.Result], documents: Sequence[T], *, top_n: int, may_omit: bool
) -> tuple[Ranked[T], ...]:
    count = len(documents)
    expected = min(top_n or count, count)
    if len(results) > expected or (len(results) < expected and not may_omit):
        raise UnusableAnswerError(f"{len(results)} results for {expected} expected ones")
    seen = bytearray(count)
    ranked = []
    for result in results:
        index = result.index
        if index >= count:
            raise UnusableAnswerError(f"result index {index} for {count} documents")
        if seen[index]:
            raise UnusableAnswerError(f"result index {index} came twice")
        seen[index] = 1
        scored = result.HasField("score")
        score = result.score if scored else None
        raw_score = result.raw_score if result.HasField("raw_score") else None
        for value in (score, raw_score) if scored or raw_score is not None else ():
            if value is not None and not math.isfinite(value):
                raise UnusableAnswerError(f"the score of index {index} is not finite")
        ranked.append(_make(Ranked, (documents[index], index, score, raw_score, scored, result.truncated)))
    return tuple(ranked)


def _ms(duration: Duration) -> float:
    return duration.seconds * 1e3 + duration.nanos / 1e6


def _by_number(generated: _ProtoEnum, prefix: str, mine: type[E]) -> dict[int, E]:
    """Generated enum number -> this package's member of that name; fails at import if one is missing."""
    return {number: mine[name.removeprefix(prefix)] for name, number in generated.items()}


_STRATEGIES = _by_number(decision_pb2.Strategy, "STRATEGY_", Strategy)
_DECISION_REASONS = _by_number(decision_pb2.DecisionReason, "DECISION_REASON_", DecisionReason)
_VERDICTS = _by_number(decision_pb2.Verdict, "VERDICT_", Verdict)
_MODES = _by_number(decision_pb2.Mode, "MODE_", Mode)
_CACHE_STATUSES = _by_number(pb.CacheStatus, "CACHE_STATUS_", CacheStatus)
_DEGRADATIONS = {
    number: Reason[name.removeprefix("DEGRADATION_REASON_")]
    for name, number in pb.DegradationReason.items()
    if number != pb.DEGRADATION_REASON_UNSPECIFIED  # to be treated like INTERNAL, says the contract
}
