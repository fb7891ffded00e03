"""Requests from the bytes of their protobuf messages: valid, or the error that names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Strategy
from router.policy import Routing
from sidecar.errors import InvalidFieldError
from sidecar.messages import Candidate, Overrun, Request, new_id
from sidecar.rerankers.base import IndexedRef
from sidecar.settings import Limits
from sidecar.wire.words import STRATEGY, milliseconds_of

MAX_NAME_CHARACTERS = 128
# The longest google.protobuf.Duration, 10,000 years: more is damage, and could not be encoded in an answer.
_MAX_DURATION_S = 315_576_000_000

_M = TypeVar("_M", pb.RerankRequest, pb.ExplainRouteRequest)

_STRATEGIES: Mapping[int, Strategy] = {number: strategy for strategy, number in STRATEGY.items()}
_AUTO = frozenset({dpb.STRATEGY_UNSPECIFIED, dpb.STRATEGY_AUTO})
_CACHE_CONTROLS = frozenset(pb.CacheControl.values())
_OVERRUN_POLICIES = frozenset(pb.OverrunPolicy.values())
# Half of the time that Candidate(...) takes, and it is taken a hundred times per request.
_make = tuple.__new__
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
    budget_ms, slack_ms, max_micro_usd, overrun = _budget(message)
    unread = message.routing.strategy == dpb.STRATEGY_NONE and not message.routing.reranker
    return Request(
        request_id=message.request_id or new_id(),
        corpus=message.corpus,
        query=query,
        candidates=_unread_candidates(message, limits) if unread else _candidates(message, limits),
        top_n=message.top_n,
        budget_ms=budget_ms,
        deadline_slack_ms=slack_ms,
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


def _budget(message: pb.RerankRequest) -> tuple[float | None, float | None, int | None, Overrun]:
    """Latency and deadline slack in ms, price in micro-USD, what to do about an overrun."""
    if not message.HasField("budget"):
        return None, None, None, Overrun.BEST_EFFORT
    budget = message.budget
    latency_ms = _milliseconds("budget.latency", budget.latency) if budget.HasField("latency") else None
    slack_ms = None
    if budget.HasField("deadline_slack"):
        slack_ms = _milliseconds("budget.deadline_slack", budget.deadline_slack)
    if budget.overrun_policy not in _OVERRUN_POLICIES:
        raise InvalidFieldError("budget.overrun_policy", f"{budget.overrun_policy} is not a known OverrunPolicy")
    overrun = Overrun.FAIL if budget.overrun_policy == pb.OVERRUN_POLICY_FAIL else Overrun.BEST_EFFORT
    max_micro_usd = budget.max_cost_micro_usd if budget.HasField("max_cost_micro_usd") else None
    return latency_ms, slack_ms, max_micro_usd, overrun


def _milliseconds(field: str, sent: Duration) -> float:
    milliseconds = milliseconds_of(sent)
    if milliseconds < 0:
        raise InvalidFieldError(field, f"is {milliseconds:g} ms; must not be negative")
    if milliseconds > _MAX_DURATION_S * 1e3:
        raise InvalidFieldError(field, f"is longer than a Duration may be, {_MAX_DURATION_S} s")
    return milliseconds


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
