"""The shared test vectors, run by both Python clients. What they hold for: clients/README.md."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
import vectors
from google.protobuf.json_format import ParseDict
from millirank import (
    Decision,
    InvalidRequestError,
    MillirankError,
    Ranking,
    RerankerNotFoundError,
    RerankerOffError,
    RerankError,
)
from millirank.testing import FakeSidecar
from millirank.v1 import rerank_service_pb2 as pb
from vectors import Expected, Vector

_RUNS = 3
_ERRORS = {
    "INVALID_REQUEST": InvalidRequestError,
    "RERANKER_NOT_FOUND": RerankerNotFoundError,
    "RERANKER_OFF": RerankerOffError,
    "RERANK_FAILED": RerankError,
}


@dataclass(frozen=True)
class Run:
    """What came of one run of a vector."""

    answer: Ranking[Any] | Decision | MillirankError
    took_ms: float
    documents: list[Any]
    stats: Any
    sidecar: FakeSidecar


@pytest.mark.parametrize("vector", vectors.load(), ids=lambda vector: f"{vector.file}-{vector.name}")
async def test_vector(make_client: Any, vector: Vector) -> None:
    """The vector's own ``contract``."""
    for _ in range(_RUNS):
        run = await _run(make_client, vector)
        _check(run, vector.expect)
        if _within(vector.expect.took_ms, run.took_ms):
            return
    pytest.fail(f"took {run.took_ms:.1f} ms, not {vector.expect.took_ms}: {vector.contract}")


async def _run(make_client: Any, vector: Vector) -> Run:
    documents = vectors.documents(vector.request)
    with vectors.playing(vector) as (target, sidecar):
        client = make_client(target, **vector.client)
        try:
            assert not vector.starts_connected or await client.wait_until_ready()
            started = time.monotonic()
            answer: Ranking[Any] | Decision | MillirankError
            try:
                call = getattr(client, vector.call)
                answer = await call(vector.request["query"], documents, **vectors.arguments(vector.request))
            except MillirankError as error:
                answer = error
            took_ms = (time.monotonic() - started) * 1e3
            await asyncio.sleep(vector.expect.settle_ms / 1e3)
            return Run(answer, took_ms, documents, client.stats, sidecar)
        finally:
            await client.close()


def _check(run: Run, expect: Expected) -> None:
    """Everything but the time."""
    if expect.error is not None:
        _check_error(run.answer, **expect.error)
    elif isinstance(run.answer, Decision):
        _check_decision(run.answer, expect)
    else:
        assert isinstance(run.answer, Ranking), run.answer
        _check_ranking(run.answer, run.documents, expect)
    _check_sent(run.sidecar, expect)
    if expect.stats is not None:
        assert _counters(run.stats) == expect.stats


def _check_error(error: object, kind: str, **fields: Any) -> None:
    assert type(error) is _ERRORS[kind], error
    for name, value in fields.items():
        found = getattr(error, name)
        assert (found.name if name == "reason" else found) == value


def _check_ranking(ranking: Ranking[Any], documents: list[Any], expect: Expected) -> None:
    order = list(range(expect.first_stage_of)) if expect.first_stage_of is not None else expect.order
    found = {
        "outcome": ranking.outcome.name,
        "fallback": ranking.fallback,
        "reasons": [reason.name for reason in ranking.reasons],
        "scores": [entry.score for entry in ranking],
        "raw_scores": [entry.raw_score for entry in ranking],
        "request_id": ranking.request_id,
    }
    for name, value in found.items():
        if (wanted := getattr(expect, name)) is not None:
            assert value == wanted, name
    assert [entry.index for entry in ranking] == order
    assert all(entry.document is documents[entry.index] for entry in ranking)
    if ranking.decision is not None:
        _check_decision(ranking.decision, expect)
    else:
        assert expect.strategy is None


def _check_decision(decision: Decision, expect: Expected) -> None:
    if expect.strategy is not None:
        assert (decision.strategy.name, decision.reason.name) == (expect.strategy, expect.decision_reason)


def _check_sent(sidecar: FakeSidecar, expect: Expected) -> None:
    if expect.requests is not None:
        assert len(sidecar.requests) == expect.requests
    if expect.latency_ms is not None:
        assert _within(expect.latency_ms, sidecar.requests[-1].budget.latency.ToMicroseconds() / 1e3)
    if expect.deadline_ms is not None:
        assert _within(expect.deadline_ms, sidecar.deadlines_ms[-1])
    if expect.sent is not None:
        sent = pb.RerankRequest()
        sent.CopyFrom(sidecar.requests[-1])
        sent.budget.ClearField("latency")
        assert sent == ParseDict(expect.sent, pb.RerankRequest())


def _within(bounds: tuple[float, float] | None, value: float) -> bool:
    return bounds is None or bounds[0] <= value <= bounds[1]


def _counters(stats: Any) -> dict[str, Any]:
    names = ("calls", "ranked", "partial", "first_stage", "raised", "late")
    counted: dict[str, Any] = {name: getattr(stats, name) for name in names}
    counted["fallbacks"] = {reason.name: count for reason, count in stats.fallbacks.items()}
    return counted
