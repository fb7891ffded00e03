import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from millirank.v1 import decision_pb2 as _decision_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OverrunPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERRUN_POLICY_UNSPECIFIED: _ClassVar[OverrunPolicy]
    OVERRUN_POLICY_BEST_EFFORT: _ClassVar[OverrunPolicy]
    OVERRUN_POLICY_FAIL: _ClassVar[OverrunPolicy]

class CacheControl(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_CONTROL_UNSPECIFIED: _ClassVar[CacheControl]
    CACHE_CONTROL_USE: _ClassVar[CacheControl]
    CACHE_CONTROL_BYPASS: _ClassVar[CacheControl]

class ScoreSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORE_SOURCE_UNSPECIFIED: _ClassVar[ScoreSource]
    SCORE_SOURCE_FIRST_STAGE: _ClassVar[ScoreSource]
    SCORE_SOURCE_SIGNALS: _ClassVar[ScoreSource]
    SCORE_SOURCE_RERANKER: _ClassVar[ScoreSource]

class Completeness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPLETENESS_UNSPECIFIED: _ClassVar[Completeness]
    COMPLETENESS_FULL: _ClassVar[Completeness]
    COMPLETENESS_PARTIAL: _ClassVar[Completeness]
    COMPLETENESS_FIRST_STAGE_ONLY: _ClassVar[Completeness]

class DegradationReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_REASON_UNSPECIFIED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_BUDGET_TOO_SMALL: _ClassVar[DegradationReason]
    DEGRADATION_REASON_BUDGET_EXHAUSTED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_OVERLOADED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_NOT_READY: _ClassVar[DegradationReason]
    DEGRADATION_REASON_BACKEND_ERROR: _ClassVar[DegradationReason]
    DEGRADATION_REASON_BACKEND_TIMEOUT: _ClassVar[DegradationReason]
    DEGRADATION_REASON_CIRCUIT_OPEN: _ClassVar[DegradationReason]
    DEGRADATION_REASON_BAD_OUTPUT: _ClassVar[DegradationReason]
    DEGRADATION_REASON_INDEX_UNAVAILABLE: _ClassVar[DegradationReason]
    DEGRADATION_REASON_DRAINING: _ClassVar[DegradationReason]
    DEGRADATION_REASON_INTERNAL: _ClassVar[DegradationReason]

class CacheStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_STATUS_UNSPECIFIED: _ClassVar[CacheStatus]
    CACHE_STATUS_MISS: _ClassVar[CacheStatus]
    CACHE_STATUS_HIT: _ClassVar[CacheStatus]
    CACHE_STATUS_SHARED: _ClassVar[CacheStatus]
OVERRUN_POLICY_UNSPECIFIED: OverrunPolicy
OVERRUN_POLICY_BEST_EFFORT: OverrunPolicy
OVERRUN_POLICY_FAIL: OverrunPolicy
CACHE_CONTROL_UNSPECIFIED: CacheControl
CACHE_CONTROL_USE: CacheControl
CACHE_CONTROL_BYPASS: CacheControl
SCORE_SOURCE_UNSPECIFIED: ScoreSource
SCORE_SOURCE_FIRST_STAGE: ScoreSource
SCORE_SOURCE_SIGNALS: ScoreSource
SCORE_SOURCE_RERANKER: ScoreSource
COMPLETENESS_UNSPECIFIED: Completeness
COMPLETENESS_FULL: Completeness
COMPLETENESS_PARTIAL: Completeness
COMPLETENESS_FIRST_STAGE_ONLY: Completeness
DEGRADATION_REASON_UNSPECIFIED: DegradationReason
DEGRADATION_REASON_BUDGET_TOO_SMALL: DegradationReason
DEGRADATION_REASON_BUDGET_EXHAUSTED: DegradationReason
DEGRADATION_REASON_OVERLOADED: DegradationReason
DEGRADATION_REASON_NOT_READY: DegradationReason
DEGRADATION_REASON_BACKEND_ERROR: DegradationReason
DEGRADATION_REASON_BACKEND_TIMEOUT: DegradationReason
DEGRADATION_REASON_CIRCUIT_OPEN: DegradationReason
DEGRADATION_REASON_BAD_OUTPUT: DegradationReason
DEGRADATION_REASON_INDEX_UNAVAILABLE: DegradationReason
DEGRADATION_REASON_DRAINING: DegradationReason
DEGRADATION_REASON_INTERNAL: DegradationReason
CACHE_STATUS_UNSPECIFIED: CacheStatus
CACHE_STATUS_MISS: CacheStatus
CACHE_STATUS_HIT: CacheStatus
CACHE_STATUS_SHARED: CacheStatus

class RerankRequest(_message.Message):
    __slots__ = ("request_id", "corpus", "query", "documents", "top_n", "budget", "routing", "instruction", "min_score", "cache_control", "tenant")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    CACHE_CONTROL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    corpus: str
    query: str
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    top_n: int
    budget: Budget
    routing: Routing
    instruction: str
    min_score: float
    cache_control: CacheControl
    tenant: str
    def __init__(self, request_id: _Optional[str] = ..., corpus: _Optional[str] = ..., query: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., top_n: _Optional[int] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., routing: _Optional[_Union[Routing, _Mapping]] = ..., instruction: _Optional[str] = ..., min_score: _Optional[float] = ..., cache_control: _Optional[_Union[CacheControl, str]] = ..., tenant: _Optional[str] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("id", "text", "signals", "indexed_ref")
    class SignalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    INDEXED_REF_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    signals: _containers.ScalarMap[str, float]
    indexed_ref: IndexedRef
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., signals: _Optional[_Mapping[str, float]] = ..., indexed_ref: _Optional[_Union[IndexedRef, _Mapping]] = ...) -> None: ...

class IndexedRef(_message.Message):
    __slots__ = ("collection", "id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    id: str
    def __init__(self, collection: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("latency", "max_cost_micro_usd", "overrun_policy", "deadline_slack")
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_MICRO_USD_FIELD_NUMBER: _ClassVar[int]
    OVERRUN_POLICY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SLACK_FIELD_NUMBER: _ClassVar[int]
    latency: _duration_pb2.Duration
    max_cost_micro_usd: int
    overrun_policy: OverrunPolicy
    deadline_slack: _duration_pb2.Duration
    def __init__(self, latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_cost_micro_usd: _Optional[int] = ..., overrun_policy: _Optional[_Union[OverrunPolicy, str]] = ..., deadline_slack: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Routing(_message.Message):
    __slots__ = ("strategy", "reranker", "allowed", "rerank_k")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    RERANK_K_FIELD_NUMBER: _ClassVar[int]
    strategy: _decision_pb2.Strategy
    reranker: str
    allowed: _containers.RepeatedScalarFieldContainer[_decision_pb2.Strategy]
    rerank_k: int
    def __init__(self, strategy: _Optional[_Union[_decision_pb2.Strategy, str]] = ..., reranker: _Optional[str] = ..., allowed: _Optional[_Iterable[_Union[_decision_pb2.Strategy, str]]] = ..., rerank_k: _Optional[int] = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("request_id", "results", "decision", "completeness", "degradations", "timing", "usage", "cache_status")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    CACHE_STATUS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    results: _containers.RepeatedCompositeFieldContainer[Result]
    decision: _decision_pb2.Decision
    completeness: Completeness
    degradations: _containers.RepeatedCompositeFieldContainer[Degradation]
    timing: Timing
    usage: Usage
    cache_status: CacheStatus
    def __init__(self, request_id: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., decision: _Optional[_Union[_decision_pb2.Decision, _Mapping]] = ..., completeness: _Optional[_Union[Completeness, str]] = ..., degradations: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., cache_status: _Optional[_Union[CacheStatus, str]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "index", "score", "raw_score", "score_source", "truncated")
    ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RAW_SCORE_FIELD_NUMBER: _ClassVar[int]
    SCORE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    id: str
    index: int
    score: float
    raw_score: float
    score_source: ScoreSource
    truncated: bool
    def __init__(self, id: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ..., raw_score: _Optional[float] = ..., score_source: _Optional[_Union[ScoreSource, str]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: DegradationReason
    detail: str
    def __init__(self, reason: _Optional[_Union[DegradationReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("total", "route", "queue", "score")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    total: _duration_pb2.Duration
    route: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    score: _duration_pb2.Duration
    def __init__(self, total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., route: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., score: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("pairs", "cached_pairs", "tokens", "cost_micro_usd")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    CACHED_PAIRS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_MICRO_USD_FIELD_NUMBER: _ClassVar[int]
    pairs: int
    cached_pairs: int
    tokens: int
    cost_micro_usd: int
    def __init__(self, pairs: _Optional[int] = ..., cached_pairs: _Optional[int] = ..., tokens: _Optional[int] = ..., cost_micro_usd: _Optional[int] = ...) -> None: ...

class ExplainRouteRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: RerankRequest
    def __init__(self, request: _Optional[_Union[RerankRequest, _Mapping]] = ...) -> None: ...

class ExplainRouteResponse(_message.Message):
    __slots__ = ("decision", "traits")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TRAITS_FIELD_NUMBER: _ClassVar[int]
    decision: _decision_pb2.Decision
    traits: _decision_pb2.Traits
    def __init__(self, decision: _Optional[_Union[_decision_pb2.Decision, _Mapping]] = ..., traits: _Optional[_Union[_decision_pb2.Traits, _Mapping]] = ...) -> None: ...
