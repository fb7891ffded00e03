import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Strategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STRATEGY_UNSPECIFIED: _ClassVar[Strategy]
    STRATEGY_AUTO: _ClassVar[Strategy]
    STRATEGY_NONE: _ClassVar[Strategy]
    STRATEGY_SIGNALS: _ClassVar[Strategy]
    STRATEGY_CROSS_ENCODER: _ClassVar[Strategy]
    STRATEGY_LATE_INTERACTION: _ClassVar[Strategy]
    STRATEGY_LLM: _ClassVar[Strategy]
    STRATEGY_CASCADE: _ClassVar[Strategy]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_OFF: _ClassVar[Mode]
    MODE_OBSERVE: _ClassVar[Mode]
    MODE_ON: _ClassVar[Mode]

class DecisionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_REASON_UNSPECIFIED: _ClassVar[DecisionReason]
    DECISION_REASON_BEST_EXPECTED_GAIN: _ClassVar[DecisionReason]
    DECISION_REASON_FORCED: _ClassVar[DecisionReason]
    DECISION_REASON_BUDGET_TOO_SMALL: _ClassVar[DecisionReason]
    DECISION_REASON_NO_GAIN: _ClassVar[DecisionReason]
    DECISION_REASON_NOT_READY: _ClassVar[DecisionReason]
    DECISION_REASON_NOTHING_TO_DO: _ClassVar[DecisionReason]
    DECISION_REASON_MODE_OFF: _ClassVar[DecisionReason]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CHOSEN: _ClassVar[Verdict]
    VERDICT_LOWER_GAIN: _ClassVar[Verdict]
    VERDICT_NOT_WORTH_ITS_TIME: _ClassVar[Verdict]
    VERDICT_OVER_BUDGET: _ClassVar[Verdict]
    VERDICT_OVER_COST: _ClassVar[Verdict]
    VERDICT_NO_GAIN: _ClassVar[Verdict]
    VERDICT_NOT_ALLOWED: _ClassVar[Verdict]
    VERDICT_NOT_READY: _ClassVar[Verdict]
    VERDICT_OFF: _ClassVar[Verdict]
    VERDICT_CIRCUIT_OPEN: _ClassVar[Verdict]
    VERDICT_CANNOT_SCORE: _ClassVar[Verdict]
STRATEGY_UNSPECIFIED: Strategy
STRATEGY_AUTO: Strategy
STRATEGY_NONE: Strategy
STRATEGY_SIGNALS: Strategy
STRATEGY_CROSS_ENCODER: Strategy
STRATEGY_LATE_INTERACTION: Strategy
STRATEGY_LLM: Strategy
STRATEGY_CASCADE: Strategy
MODE_UNSPECIFIED: Mode
MODE_OFF: Mode
MODE_OBSERVE: Mode
MODE_ON: Mode
DECISION_REASON_UNSPECIFIED: DecisionReason
DECISION_REASON_BEST_EXPECTED_GAIN: DecisionReason
DECISION_REASON_FORCED: DecisionReason
DECISION_REASON_BUDGET_TOO_SMALL: DecisionReason
DECISION_REASON_NO_GAIN: DecisionReason
DECISION_REASON_NOT_READY: DecisionReason
DECISION_REASON_NOTHING_TO_DO: DecisionReason
DECISION_REASON_MODE_OFF: DecisionReason
VERDICT_UNSPECIFIED: Verdict
VERDICT_CHOSEN: Verdict
VERDICT_LOWER_GAIN: Verdict
VERDICT_NOT_WORTH_ITS_TIME: Verdict
VERDICT_OVER_BUDGET: Verdict
VERDICT_OVER_COST: Verdict
VERDICT_NO_GAIN: Verdict
VERDICT_NOT_ALLOWED: Verdict
VERDICT_NOT_READY: Verdict
VERDICT_OFF: Verdict
VERDICT_CIRCUIT_OPEN: Verdict
VERDICT_CANNOT_SCORE: Verdict

class ConsideredArm(_message.Message):
    __slots__ = ("strategy", "reranker", "rerank_k", "predicted_p50", "predicted_p95", "expected_gain", "predicted_cost_micro_usd", "verdict", "detail")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    RERANK_K_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_P50_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_P95_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_GAIN_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_COST_MICRO_USD_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    strategy: Strategy
    reranker: str
    rerank_k: int
    predicted_p50: _duration_pb2.Duration
    predicted_p95: _duration_pb2.Duration
    expected_gain: float
    predicted_cost_micro_usd: int
    verdict: Verdict
    detail: str
    def __init__(self, strategy: _Optional[_Union[Strategy, str]] = ..., reranker: _Optional[str] = ..., rerank_k: _Optional[int] = ..., predicted_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., predicted_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expected_gain: _Optional[float] = ..., predicted_cost_micro_usd: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("id", "strategy", "reranker", "model_revision", "profile_corpus", "profile_revision", "planned_k", "scored_k", "reason", "considered", "mode", "spendable")
    ID_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_CORPUS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_REVISION_FIELD_NUMBER: _ClassVar[int]
    PLANNED_K_FIELD_NUMBER: _ClassVar[int]
    SCORED_K_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONSIDERED_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SPENDABLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    strategy: Strategy
    reranker: str
    model_revision: str
    profile_corpus: str
    profile_revision: str
    planned_k: int
    scored_k: int
    reason: DecisionReason
    considered: _containers.RepeatedCompositeFieldContainer[ConsideredArm]
    mode: Mode
    spendable: _duration_pb2.Duration
    def __init__(self, id: _Optional[str] = ..., strategy: _Optional[_Union[Strategy, str]] = ..., reranker: _Optional[str] = ..., model_revision: _Optional[str] = ..., profile_corpus: _Optional[str] = ..., profile_revision: _Optional[str] = ..., planned_k: _Optional[int] = ..., scored_k: _Optional[int] = ..., reason: _Optional[_Union[DecisionReason, str]] = ..., considered: _Optional[_Iterable[_Union[ConsideredArm, _Mapping]]] = ..., mode: _Optional[_Union[Mode, str]] = ..., spendable: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Traits(_message.Message):
    __slots__ = ("query_words", "question", "identifiers", "documents", "mean_characters", "signals", "margin")
    QUERY_WORDS_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    MEAN_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    query_words: int
    question: bool
    identifiers: bool
    documents: int
    mean_characters: float
    signals: _containers.RepeatedScalarFieldContainer[str]
    margin: float
    def __init__(self, query_words: _Optional[int] = ..., question: _Optional[bool] = ..., identifiers: _Optional[bool] = ..., documents: _Optional[int] = ..., mean_characters: _Optional[float] = ..., signals: _Optional[_Iterable[str]] = ..., margin: _Optional[float] = ...) -> None: ...
