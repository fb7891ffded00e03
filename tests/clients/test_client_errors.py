"""Errors of the sidecar: the caller's mistakes are raised, everything else falls back, or is raised if strict."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from millirank import (
    InvalidRequestError,
    MillirankError,
    Outcome,
    Reason,
    RerankerNotFoundError,
    RerankerOffError,
    RerankError,
)
from millirank.testing import Behaviour, FakeSidecar, failing, ranked
from millirank.v1 import rerank_service_pb2 as pb
from peers import DOCUMENTS, ROOMY_MS


@pytest.mark.parametrize("strict", [False, True])
async def test_a_wrong_field_is_raised_with_its_name(client: Any, sidecar: FakeSidecar, strict: bool) -> None:
    """INVALID_ARGUMENT is the caller's mistake, strict or not; the BadRequest's field is kept."""
    sidecar.behaviour = failing("INVALID_ARGUMENT", "text is missing", field="documents[2].text")

    with pytest.raises(InvalidRequestError, match="text is missing") as caught:
        await client.rerank("query", DOCUMENTS, strict=strict, budget_ms=ROOMY_MS)

    assert caught.value.field == "documents[2].text"
    assert client.stats.raised == 1


@pytest.mark.parametrize(
    ("code", "expected"), [("NOT_FOUND", RerankerNotFoundError), ("FAILED_PRECONDITION", RerankerOffError)]
)
async def test_a_forced_reranker_that_cannot_serve_is_raised(
    client: Any, sidecar: FakeSidecar, code: str, expected: type[Exception]
) -> None:
    """NOT_FOUND and FAILED_PRECONDITION have their own types, for rerank and for explain."""
    sidecar.behaviour = failing(code, "there are: bge, minilm")

    with pytest.raises(expected, match="there are: bge, minilm"):
        await client.rerank("query", DOCUMENTS, reranker="nope", budget_ms=ROOMY_MS)
    with pytest.raises(expected, match="there are: bge, minilm"):
        await client.explain("query", DOCUMENTS, reranker="nope")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("UNAVAILABLE", Reason.SIDECAR_UNAVAILABLE),
        ("DEADLINE_EXCEEDED", Reason.SIDECAR_TIMEOUT),
        ("RESOURCE_EXHAUSTED", Reason.SIDECAR_ERROR),
        ("INTERNAL", Reason.SIDECAR_ERROR),
        ("UNIMPLEMENTED", Reason.SIDECAR_ERROR),
        ("UNAUTHENTICATED", Reason.SIDECAR_ERROR),
        ("UNKNOWN", Reason.SIDECAR_ERROR),
    ],
)
async def test_every_other_status_is_a_fallback(client: Any, sidecar: FakeSidecar, code: str, reason: Reason) -> None:
    """The caller gets first-stage order, and the status in words."""
    sidecar.behaviour = failing(code, "told so")

    ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    assert (ranking.outcome, ranking.documents) == (Outcome.FIRST_STAGE, DOCUMENTS)
    assert ranking.reasons == (reason,)
    assert ranking.degradations[0].detail == f"{code}: told so"
    assert dict(client.stats.fallbacks) == {reason: 1}


async def test_a_strict_caller_learns_what_the_sidecar_said(client: Any, sidecar: FakeSidecar) -> None:
    """RerankError carries the ErrorInfo's reason, the status and the RetryInfo."""
    sidecar.behaviour = failing("UNAVAILABLE", "warming up", reason="NOT_READY", retry_after_ms=250)

    with pytest.raises(RerankError, match="warming up") as caught:
        await client.rerank("query", DOCUMENTS, strict=True, budget_ms=ROOMY_MS)

    error = caught.value
    assert (error.reason, error.code, error.retry_after_ms) == (Reason.NOT_READY, "UNAVAILABLE", 250.0)


@pytest.mark.parametrize(("code", "attempts"), [("UNAVAILABLE", 2), ("INTERNAL", 1), ("RESOURCE_EXHAUSTED", 1)])
async def test_only_unavailable_is_tried_again_and_only_once(
    client: Any, sidecar: FakeSidecar, code: str, attempts: int
) -> None:
    """One retry, for UNAVAILABLE alone."""
    sidecar.behaviour = failing(code)

    await client.rerank("query", DOCUMENTS, budget_ms=1_000)

    assert len(sidecar.requests) == attempts


def edited(edit: Any) -> Behaviour:
    """A complete answer with something wrong in it."""

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        response = ranked()(request)
        edit(response)
        return response

    return behave


GARBAGE = {
    "an index twice": ranked([0, 1, 1, 2]),
    "an index out of range": ranked([0, 1, 2, 4]),
    "too few results": ranked([0, 1, 2]),
    "too many results": ranked([0, 1, 2, 3, 0]),
    "a score that is not a number": edited(lambda r: setattr(r.results[1], "score", math.nan)),
    "an infinite raw score": edited(lambda r: setattr(r.results[3], "raw_score", math.inf)),
    "no completeness": edited(lambda r: r.ClearField("completeness")),
    "nothing at all": lambda request: pb.RerankResponse(),
}


@pytest.mark.parametrize("behaviour", GARBAGE.values(), ids=GARBAGE.keys())
async def test_an_answer_that_is_no_ordering_is_not_used(
    client: Any, sidecar: FakeSidecar, behaviour: Behaviour
) -> None:
    """Garbage becomes SIDECAR_ERROR and first-stage order; nothing of it reaches the caller."""
    sidecar.behaviour = behaviour

    ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    assert (ranking.outcome, ranking.documents, ranking.fallback) == (Outcome.FIRST_STAGE, DOCUMENTS, True)
    assert ranking.reasons == (Reason.SIDECAR_ERROR,)
    assert "can't be used" in ranking.degradations[0].detail
    assert ranking.decision is None


async def test_more_results_than_top_n_are_garbage(client: Any, sidecar: FakeSidecar) -> None:
    """A sidecar that ignores top_n is not trusted with the rest."""

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        request.top_n = 0
        return ranked()(request)

    sidecar.behaviour = behave

    ranking = await client.rerank("query", DOCUMENTS, top_n=2, budget_ms=ROOMY_MS)

    assert (ranking.documents, ranking.reasons) == (DOCUMENTS[:2], (Reason.SIDECAR_ERROR,))


def test_details_of_a_stranger_do_not_hide_the_status() -> None:
    """Trailers that are no google.rpc.Status (a proxy's) leave the code and the message."""
    import grpc
    from millirank._status import Failure, read_status

    failure = read_status(grpc.StatusCode.UNAVAILABLE, "no route", [("grpc-status-details-bin", b"\xff\x01<")])

    assert failure == Failure(Reason.SIDECAR_UNAVAILABLE, "UNAVAILABLE: no route", "UNAVAILABLE")


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("wrong", "query"),
        RerankError("late", Reason.SIDECAR_TIMEOUT, "DEADLINE_EXCEEDED", 10.0),
        RerankerOffError("off"),
    ],
)
def test_errors_survive_pickling(error: MillirankError) -> None:
    """An exception raised in a worker process arrives whole."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
