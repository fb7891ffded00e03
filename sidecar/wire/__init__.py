"""Protobuf <-> plain dataclasses: the only place that knows how requests and answers look on the wire."""

from sidecar.wire.answers import encode_answer, encode_explanation
from sidecar.wire.requests import MAX_NAME_CHARACTERS, parse_explain, parse_rerank
from sidecar.wire.words import duration

__all__ = [
    "MAX_NAME_CHARACTERS",
    "duration",
    "encode_answer",
    "encode_explanation",
    "parse_explain",
    "parse_rerank",
]
