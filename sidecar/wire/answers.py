"""Answers and explanations as the bytes of their protobuf messages."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.policy import ConsideredArm
from router.traits import Traits
from sidecar.messages import Answer, Candidate, Explanation, Ranked, Request, ScoreSource
from sidecar.wire.words import (
    CACHE_STATUS,
    COMPLETENESS,
    DECISION_REASON,
    DEGRADATION_REASON,
    MODE,
    SCORE_SOURCE,
    STRATEGY,
    VERDICT,
    duration,
)


def _varint(number: int) -> bytes:
    """A length as it stands before a length-delimited field's content."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# The beginnings of length-delimited fields (wire type 2): a result's id of so many bytes, and a result whose parts
# beside the id's own tag and length have so many bytes.
_SHORT = 64
_RESULTS = _varint(pb.RerankResponse.RESULTS_FIELD_NUMBER << 3 | 2)
_ID_OF = [_varint(pb.Result.ID_FIELD_NUMBER << 3 | 2) + _varint(length) for length in range(_SHORT)]
_RESULT_OF = [_RESULTS + _varint(length + len(_ID_OF[0])) for length in range(2 * _SHORT)]
_TRUNCATED = pb.Result(truncated=True).SerializeToString()


def encode_answer(answer: Answer, request: Request) -> bytes:
    """RerankResponse bytes."""
    outcome = answer.outcome
    response = pb.RerankResponse(
        request_id=answer.request_id,
        decision=_decision(answer.explanation, outcome.scored_k),
        completeness=COMPLETENESS[outcome.completeness],
        cache_status=CACHE_STATUS[answer.cache],
        timing=pb.Timing(
            total=duration(answer.timing.total_ms),
            route=duration(answer.timing.route_ms),
            queue=duration(answer.timing.queue_ms),
            score=duration(answer.timing.score_ms),
        ),
        usage=pb.Usage(
            pairs=outcome.usage.pairs,
            cached_pairs=outcome.usage.cached_pairs,
            tokens=outcome.usage.tokens,
            cost_micro_usd=outcome.usage.micro_usd,
        ),
    )
    for degradation in outcome.degradations:
        reason = DEGRADATION_REASON[degradation.reason]
        response.degradations.add(reason=reason, detail=degradation.detail)
    return b"".join([response.SerializeToString(), *_results(outcome.ranked, request.candidates)])


def _results(ranked: Sequence[Ranked], candidates: Sequence[Candidate]) -> list[bytes]:
    """`RerankResponse.results`, each as the bytes of its field.

    Joining encodings merges messages (protobuf.dev/programming-guides/encoding, "Last One Wins"). So a hundred
    candidates that nobody scored need no message each: but for the id, they are the same in every answer.
    """
    first_stage = ScoreSource.FIRST_STAGE
    unscored = _unscored_results(len(candidates))
    fields = []
    for position, score, raw_score, source in ranked:
        name, _, _, truncated, _ = candidates[position]
        if source is first_stage:
            rest = unscored[position]
        else:
            result = pb.Result(index=position, score_source=SCORE_SOURCE[source])
            if score is not None:
                result.score = score
            if raw_score is not None:
                result.raw_score = raw_score
            rest = result.SerializeToString()
        if truncated:
            rest += _TRUNCATED
        encoded = name.encode()
        length = len(encoded)
        if length < _SHORT:
            fields.append(_RESULT_OF[length + len(rest)] + _ID_OF[length] + encoded + rest)
        else:
            rest += pb.Result(id=name).SerializeToString()
            fields.append(_RESULTS + _varint(len(rest)) + rest)
    return fields


@functools.lru_cache(maxsize=64)
def _unscored_results(count: int) -> list[bytes]:
    """Results at positions 0 to ``count`` - 1 without their ids; callers tend to send the same number each time."""
    source = pb.SCORE_SOURCE_FIRST_STAGE
    return [pb.Result(index=position, score_source=source).SerializeToString() for position in range(count)]


def encode_explanation(explanation: Explanation) -> bytes:
    """ExplainRouteResponse bytes."""
    return pb.ExplainRouteResponse(
        decision=_decision(explanation, scored_k=0), traits=_traits(explanation.traits)
    ).SerializeToString()


def _decision(explanation: Explanation, scored_k: int) -> dpb.Decision:
    decision = explanation.decision
    return dpb.Decision(
        id=explanation.decision_id,
        strategy=STRATEGY[decision.strategy],
        reranker=decision.reranker,
        model_revision=explanation.model_revision,
        profile_corpus=explanation.profile_corpus,
        profile_revision=explanation.profile_revision,
        planned_k=decision.planned_k,
        scored_k=scored_k,
        reason=DECISION_REASON[decision.reason],
        considered=[_considered(arm) for arm in decision.considered],
        mode=MODE[explanation.mode],
        spendable=duration(explanation.spendable_ms),
    )


def _considered(arm: ConsideredArm) -> dpb.ConsideredArm:
    return dpb.ConsideredArm(
        strategy=STRATEGY[arm.strategy],
        reranker=arm.reranker,
        rerank_k=arm.rerank_k,
        predicted_p50=duration(arm.p50_ms),
        predicted_p95=duration(arm.p95_ms),
        expected_gain=arm.expected_gain,
        predicted_cost_micro_usd=arm.micro_usd,
        verdict=VERDICT[arm.verdict],
        detail=arm.detail,
    )


def _traits(traits: Traits) -> dpb.Traits:
    return dpb.Traits(
        query_words=traits.query_words,
        question=traits.question,
        identifiers=traits.identifiers,
        documents=traits.documents,
        mean_characters=traits.mean_characters,
        signals=traits.signals,
        margin=traits.margin,
    )
