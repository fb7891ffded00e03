"""What requests and answers share on the wire: our words as the contract's numbers, and durations."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Strategy
from router.policy import Reason, Verdict
from sidecar.messages import CacheStatus, Completeness, DegradationReason, ScoreSource
from sidecar.settings import Mode

_E = TypeVar("_E", bound=StrEnum)


def _table(words: type[_E], numbers: EnumTypeWrapper, prefix: str) -> Mapping[_E, Any]:
    """Our words to the wire's numbers (the stubs give each enum a type of its own, hence Any).

    A word that the contract lacks fails here, at import.
    """
    return {word: numbers.Value(f"{prefix}_{word.name}") for word in words}


STRATEGY = _table(Strategy, dpb.Strategy, "STRATEGY")
MODE = _table(Mode, dpb.Mode, "MODE")
DECISION_REASON = _table(Reason, dpb.DecisionReason, "DECISION_REASON")
VERDICT = _table(Verdict, dpb.Verdict, "VERDICT")
COMPLETENESS = _table(Completeness, pb.Completeness, "COMPLETENESS")
DEGRADATION_REASON = _table(DegradationReason, pb.DegradationReason, "DEGRADATION_REASON")
SCORE_SOURCE = _table(ScoreSource, pb.ScoreSource, "SCORE_SOURCE")
CACHE_STATUS = _table(CacheStatus, pb.CacheStatus, "CACHE_STATUS")


def duration(milliseconds: float) -> Duration:
    """Milliseconds as a Duration, to the nanosecond; negative ones count as zero."""
    nanos = max(0, round(milliseconds * 1e6))
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def milliseconds_of(sent: Duration) -> float:
    """A Duration in milliseconds, whatever its sign."""
    return sent.seconds * 1e3 + sent.nanos / 1e6
