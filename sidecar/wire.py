"""Protobuf <-> plain dataclasses: the only place that knows how requests and answers look on the wire."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import DecodeError
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Strategy
from router.policy import ConsideredArm, Reason, Routing, Verdict
from router.traits import Traits
from sidecar.errors import InvalidFieldError
from sidecar.messages import (
    Answer,
    CacheStatus,
    Candidate,
    Completeness,
    DegradationReason,
    Explanation,
    Overrun,
    Ranked,
    Request,
    ScoreSource,
    new_id,
)
from sidecar.rerankers.base import IndexedRef
from sidecar.settings import Limits, Mode

MAX_NAME_CHARACTERS = 128
# The longest google.protobuf.Duration, 10,000 years: more is damage, and could not be encoded in an answer.
_MAX_DURATION_S = 315_576_000_000

_M = TypeVar("_M", pb.RerankRequest, pb.ExplainRouteRequest)
_E = TypeVar("_E", bound=StrEnum)


def _table(words: type[_E], numbers: EnumTypeWrapper, prefix: str) -> Mapping[_E, Any]:
    """Our words to the wire's numbers (the stubs give each enum a type of its own, hence Any).

    A word that the contract lacks fails here, at import.
    """
    return {word: numbers.Value(f"{prefix}_{word.name}") for word in words}


_STRATEGY = _table(Strategy, dpb.Strategy, "STRATEGY")
_MODE = _table(Mode, dpb.Mode, "MODE")
_DECISION_REASON = _table(Reason, dpb.DecisionReason, "DECISION_REASON")
_VERDICT = _table(Verdict, dpb.Verdict, "VERDICT")
_COMPLETENESS = _table(Completeness, pb.Completeness, "COMPLETENESS")
_DEGRADATION_REASON = _table(DegradationReason, pb.DegradationReason, "DEGRADATION_REASON")
_SCORE_SOURCE = _table(ScoreSource, pb.ScoreSource, "SCORE_SOURCE")
_CACHE_STATUS = _table(CacheStatus, pb.CacheStatus, "CACHE_STATUS")

_STRATEGIES: Mapping[int, Strategy] = {number: strategy for strategy, number in _STRATEGY.items()}
_AUTO = frozenset({dpb.STRATEGY_UNSPECIFIED, dpb.STRATEGY_AUTO})
_CACHE_CONTROLS = frozenset(pb.CacheControl.values())
_OVERRUN_POLICIES = frozenset(pb.OverrunPolicy.values())
# Half of the time that Candidate(...) takes, and it is taken a hundred times per request.
_make = tuple.__new__


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
_NO_SIGNALS: Mapping[str, float] = MappingProxyType({})


def parse_rerank(data: bytes, limits: Limits) -> Request:
    """A valid request from its bytes. Raises InvalidFieldError naming the field.

    With strategy NONE, nobody is going to read texts and signals, and neither does this: they are most of the work.
    """
    return _request(_decode(pb.RerankRequest(), data), limits)


def parse_explain(data: bytes, limits: Limits) -> Request:
    """Like `parse_rerank`, for an ExplainRouteRequest."""
    return _request(_decode(pb.ExplainRouteRequest(), data).request, limits)


def _decode(message: _M, data: bytes) -> _M:
    try:
        message.ParseFromString(data)
    except DecodeError:
        name = message.DESCRIPTOR.full_name
        raise InvalidFieldError(
            "(message)",
            f"the bytes are not a {name}: damaged, another message, or a string that is not UTF-8",
        ) from None
    return message


def _request(message: pb.RerankRequest, limits: Limits) -> Request:
    for name in ("request_id", "corpus", "tenant"):
        _bounded(name, getattr(message, name), MAX_NAME_CHARACTERS)
    query = message.query
    if not query or query.isspace():
        raise InvalidFieldError("query", "is empty; send the user's query")
    _bounded("query", query, limits.query_characters)
    _bounded("instruction", message.instruction, limits.instruction_characters)
    if len(message.documents) > limits.documents:
        raise InvalidFieldError(
            "documents",
            f"has {len(message.documents)} entries; at most {limits.documents}: send the best ones",
        )
    min_score = message.min_score if message.HasField("min_score") else None
    if min_score is not None and not math.isfinite(min_score):
        raise InvalidFieldError("min_score", "must be a finite number")
    if message.cache_control not in _CACHE_CONTROLS:
        raise InvalidFieldError("cache_control", f"{message.cache_control} is not a known CacheControl")
    budget_ms, max_micro_usd, overrun = _budget(message)
    unread = message.routing.strategy == dpb.STRATEGY_NONE and not message.routing.reranker
    return Request(
        request_id=message.request_id or new_id(),
        corpus=message.corpus,
        query=query,
        candidates=_unread_candidates(message, limits) if unread else _candidates(message, limits),
        top_n=message.top_n,
        budget_ms=budget_ms,
        max_micro_usd=max_micro_usd,
        overrun=overrun,
        routing=_routing(message.routing),
        instruction=message.instruction,
        min_score=min_score,
        use_cache=message.cache_control != pb.CACHE_CONTROL_BYPASS,
        tenant=message.tenant,
    )


def _bounded(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidFieldError(field, f"has {len(text)} characters; at most {limit}")


def _unread_candidates(message: pb.RerankRequest, limits: Limits) -> tuple[Candidate, ...]:
    """The candidates' ids alone."""
    ids = [document.id for document in message.documents]
    if ids and max(map(len, ids)) > limits.id_characters:
        for position, name in enumerate(ids):
            _bounded(f"documents[{position}].id", name, limits.id_characters)
    return tuple([_make(Candidate, (name, "", _NO_SIGNALS, False, None)) for name in ids])


def _candidates(message: pb.RerankRequest, limits: Limits) -> tuple[Candidate, ...]:
    # Once for each document of every request: nothing is formatted or copied unless it is needed.
    cut, longest_id = limits.document_characters, limits.id_characters
    candidates = []
    for position, document in enumerate(message.documents):
        text, name = document.text, document.id
        ref = _indexed_ref(document, position, longest_id) if document.HasField("indexed_ref") else None
        if not text and ref is None:
            raise InvalidFieldError(
                f"documents[{position}].text", "is empty; every candidate needs its text, or an indexed_ref"
            )
        if len(name) > longest_id:
            _bounded(f"documents[{position}].id", name, longest_id)
        sent = document.signals
        signals = _signals(sent, position, limits) if sent else _NO_SIGNALS
        truncated = len(text) > cut
        candidates.append(_make(Candidate, (name, text[:cut] if truncated else text, signals, truncated, ref)))
    return tuple(candidates)


def _indexed_ref(document: pb.Document, position: int, longest: int) -> IndexedRef:
    ref = IndexedRef(document.indexed_ref.collection, document.indexed_ref.id)
    for name, value in ref._asdict().items():
        if not value:
            raise InvalidFieldError(f"documents[{position}].indexed_ref.{name}", "is empty; say where it lies")
        _bounded(f"documents[{position}].indexed_ref.{name}", value, longest)
    return ref


def _signals(sent: Mapping[str, float], position: int, limits: Limits) -> Mapping[str, float]:
    if len(sent) > limits.signals_per_document:
        raise InvalidFieldError(
            f"documents[{position}].signals", f"has {len(sent)} entries; at most {limits.signals_per_document}"
        )
    # Not dict(sent): that walks a protobuf map through its slow, generic interface.
    signals = {name: sent[name] for name in sent}
    for name, value in signals.items():
        if not name:
            raise InvalidFieldError(f"documents[{position}].signals", "has an entry without a name")
        if not math.isfinite(value):
            # The name is the caller's; it may be anything, so it is shown cut and quoted.
            raise InvalidFieldError(
                f"documents[{position}].signals[{name[:64]!r}]", f"is {value}; signals must be finite"
            )
    return signals


def _budget(message: pb.RerankRequest) -> tuple[float | None, int | None, Overrun]:
    if not message.HasField("budget"):
        return None, None, Overrun.BEST_EFFORT
    budget = message.budget
    latency_ms = None
    if budget.HasField("latency"):
        latency_ms = budget.latency.seconds * 1e3 + budget.latency.nanos / 1e6
        if latency_ms < 0:
            raise InvalidFieldError("budget.latency", f"is {latency_ms:g} ms; must not be negative")
        if latency_ms > _MAX_DURATION_S * 1e3:
            raise InvalidFieldError("budget.latency", f"is longer than a Duration may be, {_MAX_DURATION_S} s")
    if budget.overrun_policy not in _OVERRUN_POLICIES:
        raise InvalidFieldError("budget.overrun_policy", f"{budget.overrun_policy} is not a known OverrunPolicy")
    overrun = Overrun.FAIL if budget.overrun_policy == pb.OVERRUN_POLICY_FAIL else Overrun.BEST_EFFORT
    max_micro_usd = budget.max_cost_micro_usd if budget.HasField("max_cost_micro_usd") else None
    return latency_ms, max_micro_usd, overrun


def _routing(message: pb.Routing) -> Routing:
    _bounded("routing.reranker", message.reranker, MAX_NAME_CHARACTERS)
    return Routing(
        strategy=_strategy("routing.strategy", message.strategy),
        reranker=message.reranker,
        allowed=frozenset(
            strategy
            for position, value in enumerate(message.allowed)
            if (strategy := _strategy(f"routing.allowed[{position}]", value)) is not None
        ),
        rerank_k=message.rerank_k,
    )


def _strategy(field: str, value: int) -> Strategy | None:
    """None stands for AUTO."""
    if value in _AUTO:
        return None
    if value not in _STRATEGIES:
        raise InvalidFieldError(field, f"{value} is not a known Strategy; does the sidecar need an update?")
    return _STRATEGIES[value]


def encode_answer(answer: Answer, request: Request) -> bytes:
    """RerankResponse bytes."""
    outcome = answer.outcome
    response = pb.RerankResponse(
        request_id=answer.request_id,
        decision=_decision(answer.explanation, outcome.scored_k),
        completeness=_COMPLETENESS[outcome.completeness],
        cache_status=_CACHE_STATUS[answer.cache],
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
        reason = _DEGRADATION_REASON[degradation.reason]
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
            result = pb.Result(index=position, score_source=_SCORE_SOURCE[source])
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


def duration(milliseconds: float) -> Duration:
    """Milliseconds as a Duration, to the nanosecond; negative ones count as zero."""
    nanos = max(0, round(milliseconds * 1e6))
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def _decision(explanation: Explanation, scored_k: int) -> dpb.Decision:
    decision = explanation.decision
    return dpb.Decision(
        id=explanation.decision_id,
        strategy=_STRATEGY[decision.strategy],
        reranker=decision.reranker,
        model_revision=explanation.model_revision,
        profile_corpus=explanation.profile_corpus,
        profile_revision=explanation.profile_revision,
        planned_k=decision.planned_k,
        scored_k=scored_k,
        reason=_DECISION_REASON[decision.reason],
        considered=[_considered(arm) for arm in decision.considered],
        mode=_MODE[explanation.mode],
        spendable=duration(explanation.spendable_ms),
    )


def _considered(arm: ConsideredArm) -> dpb.ConsideredArm:
    return dpb.ConsideredArm(
        strategy=_STRATEGY[arm.strategy],
        reranker=arm.reranker,
        rerank_k=arm.rerank_k,
        predicted_p50=duration(arm.p50_ms),
        predicted_p95=duration(arm.p95_ms),
        expected_gain=arm.expected_gain,
        predicted_cost_micro_usd=arm.micro_usd,
        verdict=_VERDICT[arm.verdict],
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
