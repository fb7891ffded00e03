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

class RerankerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RERANKER_STATE_UNSPECIFIED: _ClassVar[RerankerState]
    RERANKER_STATE_READY: _ClassVar[RerankerState]
    RERANKER_STATE_WARMING: _ClassVar[RerankerState]
    RERANKER_STATE_CIRCUIT_OPEN: _ClassVar[RerankerState]
    RERANKER_STATE_OFF: _ClassVar[RerankerState]
RERANKER_STATE_UNSPECIFIED: RerankerState
RERANKER_STATE_READY: RerankerState
RERANKER_STATE_WARMING: RerankerState
RERANKER_STATE_CIRCUIT_OPEN: RerankerState
RERANKER_STATE_OFF: RerankerState

class Reranker(_message.Message):
    __slots__ = ("name", "strategy", "state", "detail", "revision", "queue")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    strategy: _decision_pb2.Strategy
    state: RerankerState
    detail: str
    revision: str
    queue: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., strategy: _Optional[_Union[_decision_pb2.Strategy, str]] = ..., state: _Optional[_Union[RerankerState, str]] = ..., detail: _Optional[str] = ..., revision: _Optional[str] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListRerankersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRerankersResponse(_message.Message):
    __slots__ = ("rerankers", "mode", "profile_error")
    RERANKERS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ERROR_FIELD_NUMBER: _ClassVar[int]
    rerankers: _containers.RepeatedCompositeFieldContainer[Reranker]
    mode: _decision_pb2.Mode
    profile_error: str
    def __init__(self, rerankers: _Optional[_Iterable[_Union[Reranker, _Mapping]]] = ..., mode: _Optional[_Union[_decision_pb2.Mode, str]] = ..., profile_error: _Optional[str] = ...) -> None: ...

class ProfileVersion(_message.Message):
    __slots__ = ("corpus", "revision", "file")
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    corpus: str
    revision: str
    file: str
    def __init__(self, corpus: _Optional[str] = ..., revision: _Optional[str] = ..., file: _Optional[str] = ...) -> None: ...

class GetProfileRequest(_message.Message):
    __slots__ = ("corpus",)
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    corpus: str
    def __init__(self, corpus: _Optional[str] = ...) -> None: ...

class GetProfileResponse(_message.Message):
    __slots__ = ("version", "content", "profile_error", "loaded")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ERROR_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    version: ProfileVersion
    content: str
    profile_error: str
    loaded: _containers.RepeatedCompositeFieldContainer[ProfileVersion]
    def __init__(self, version: _Optional[_Union[ProfileVersion, _Mapping]] = ..., content: _Optional[str] = ..., profile_error: _Optional[str] = ..., loaded: _Optional[_Iterable[_Union[ProfileVersion, _Mapping]]] = ...) -> None: ...

class ReloadProfileRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadProfileResponse(_message.Message):
    __slots__ = ("loaded", "changed")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    loaded: _containers.RepeatedCompositeFieldContainer[ProfileVersion]
    changed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, loaded: _Optional[_Iterable[_Union[ProfileVersion, _Mapping]]] = ..., changed: _Optional[_Iterable[str]] = ...) -> None: ...

class SetModeRequest(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: _decision_pb2.Mode
    def __init__(self, mode: _Optional[_Union[_decision_pb2.Mode, str]] = ...) -> None: ...

class SetModeResponse(_message.Message):
    __slots__ = ("mode", "previous")
    MODE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    mode: _decision_pb2.Mode
    previous: _decision_pb2.Mode
    def __init__(self, mode: _Optional[_Union[_decision_pb2.Mode, str]] = ..., previous: _Optional[_Union[_decision_pb2.Mode, str]] = ...) -> None: ...
