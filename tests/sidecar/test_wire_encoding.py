"""Answers and explanations -> bytes, and the table of errors."""

from __future__ import annotations

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.policy import RerankerOffError, UnknownCollectionError, UnknownRerankerError
from sidecar import wire
from sidecar.errors import DETAILS_KEY, InvalidFieldError, to_failure
from sidecar.messages import Degradation, DegradationReason
from sidecar.pipeline import OverrunError, UnavailableError
from tests.helpers import ScriptedReranker, request, rig


@pytest.mark.parametrize(
    ("milliseconds", "seconds", "nanos"),
    [(0, 0, 0), (0.000001, 0, 1), (1.5, 0, 1_500_000), (999.9999999, 1, 0), (61_000.25, 61, 250_000), (-3, 0, 0)],
)
def test_durations_are_exact_to_the_nanosecond(milliseconds: float, seconds: int, nanos: int) -> None:
    """Milliseconds become normalised Durations; negative ones, which clocks make of rounding, are zero."""
    duration = wire.duration(milliseconds)
    assert (duration.seconds, duration.nanos) == (seconds, nanos)


async def test_answer_carries_order_scores_and_decision() -> None:
    """A scored answer: best first, absent scores stay absent, everything about the decision is there."""
    asked = request("red green", "blue", "red green", "red", top_n=2, corpus="nowhere")
    parts = rig(ScriptedReranker())
    answer = await parts.pipeline.rerank(asked, None, parts.clock())
    response = pb.RerankResponse.FromString(wire.encode_answer(answer, asked))
    assert [(result.id, result.index) for result in response.results] == [("id-1", 1), ("id-2", 2)]
    assert [result.raw_score for result in response.results] == [2.0, 1.0]
    assert response.results[0].score > response.results[1].score
    assert all(result.score_source == pb.SCORE_SOURCE_RERANKER for result in response.results)
    assert response.request_id == "r-1"
    assert response.completeness == pb.COMPLETENESS_FULL
    assert response.cache_status == pb.CACHE_STATUS_MISS
    assert response.usage.pairs == 3
    decision = response.decision
    assert (decision.strategy, decision.reranker) == (dpb.STRATEGY_CROSS_ENCODER, "scripted")
    assert (decision.model_revision, decision.profile_corpus) == ("scripted-revision-1", "default")
    assert (decision.planned_k, decision.scored_k) == (3, 3)
    assert decision.reason == dpb.DECISION_REASON_BEST_EXPECTED_GAIN
    assert decision.mode == dpb.MODE_ON
    assert decision.spendable.ToMilliseconds() == 98  # the default of 100 less the reserve of 2
    assert {arm.verdict for arm in decision.considered} >= {dpb.VERDICT_CHOSEN, dpb.VERDICT_LOWER_GAIN}
    assert response.timing.total.ToNanoseconds() > 0


async def test_unscored_candidates_have_no_scores_on_the_wire() -> None:
    """Absent, not 0: a caller can tell 'not scored' from 'scored with 0'."""
    asked = request("q", "a", "b", budget_ms=0.0)
    parts = rig(ScriptedReranker())
    answer = await parts.pipeline.rerank(asked, None, parts.clock())
    response = pb.RerankResponse.FromString(wire.encode_answer(answer, asked))
    for result in response.results:
        assert not result.HasField("score")
        assert not result.HasField("raw_score")
        assert result.score_source == pb.SCORE_SOURCE_FIRST_STAGE


def _degraded(reason: DegradationReason) -> Degradation:
    return Degradation(reason, "why")


@pytest.mark.parametrize(
    ("error", "code", "reason", "words"),
    [
        (InvalidFieldError("query", "is empty"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "query: is empty"),
        (UnknownRerankerError("no 'x'; configured: y"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_RERANKER", "configured: y"),
        (UnknownCollectionError("no index"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_COLLECTION", "no index"),
        (RerankerOffError("'x' is off: no key"), grpc.StatusCode.FAILED_PRECONDITION, "RERANKER_OFF", "no key"),
        (
            OverrunError(_degraded(DegradationReason.BUDGET_EXHAUSTED)),
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "BUDGET_EXHAUSTED",
            "overrun policy is FAIL",
        ),
        (
            UnavailableError(_degraded(DegradationReason.DRAINING)),
            grpc.StatusCode.UNAVAILABLE,
            "DRAINING",
            "overrun policy is FAIL",
        ),
        (RuntimeError("zyzzyva"), grpc.StatusCode.INTERNAL, "INTERNAL", "request_id r-9"),
    ],
)
def test_error_table(error: Exception, code: grpc.StatusCode, reason: str, words: str) -> None:
    """Each row of the contract's table: code, ErrorInfo with domain and request_id, and a message that helps."""
    failure = to_failure(error, "r-9")
    ((key, packed),) = failure.trailing_metadata
    status = Status.FromString(packed)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert key == DETAILS_KEY
    assert (failure.code, status.code) == (code, code.value[0])
    assert status.message == failure.message
    assert words in failure.message
    assert (info.reason, info.domain, info.metadata["request_id"]) == (reason, "millirank.io", "r-9")
    assert b"zyzzyva" not in packed


def test_field_errors_carry_bad_request() -> None:
    """INVALID_ARGUMENT names its field in a google.rpc.BadRequest."""
    status = Status.FromString(to_failure(InvalidFieldError("documents[3].text", "is empty"), "r").details)
    bad = BadRequest()
    assert status.details[1].Unpack(bad)
    (violation,) = bad.field_violations
    assert (violation.field, violation.description) == ("documents[3].text", "is empty")


def test_unavailable_says_when_to_come_back() -> None:
    """UNAVAILABLE carries a google.rpc.RetryInfo with a positive delay."""
    error = UnavailableError(_degraded(DegradationReason.NOT_READY))
    status = Status.FromString(to_failure(error, "r").details)
    retry = RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToSeconds() >= 1
