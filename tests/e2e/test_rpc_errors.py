"""The table of errors over a real channel, in rows: what is refused, how, and what degrades instead.

The server is the real one, in this process, around a reranker whose faults are programmed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import zlib
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1.rerank_service_pb2_grpc import RerankServiceStub

from router.arms import Availability, State
from sidecar.logs import JsonFormatter
from sidecar.rerankers.base import BackendError, BadOutputError, CircuitOpenError, NotReadyError, Scored
from sidecar.settings import Limits, Settings
from tests.e2e.rpc import FAIL, RERANK, TEXTS, TIMEOUT_S, connected, failure_of, message, order_of, reasons_of, rerank
from tests.helpers import MARKER, Rig, ScriptedReranker, rig


def _signal(value: float) -> list[pb.Document]:
    return [pb.Document(text="x", signals={"bm25": value})]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"query": ""}, "query", "send the user's query"),
        ({"query": " \n\t"}, "query", "send the user's query"),
        ({"documents": [pb.Document(text="x")] * 10_001}, "documents", "has 10001 entries; at most 1000"),
        ({"documents": [pb.Document(id="x")]}, "documents[0].text", "needs its text"),
        ({"documents": _signal(math.nan)}, "documents[0].signals['bm25']", "must be finite"),
        ({"documents": _signal(math.inf)}, "documents[0].signals['bm25']", "must be finite"),
        ({"budget": pb.Budget(latency=Duration(seconds=-1))}, "budget.latency", "must not be negative"),
        ({"budget": pb.Budget(latency=Duration(seconds=2**62))}, "budget.latency", "longer than a Duration"),
        ({"budget": pb.Budget(overrun_policy=9)}, "budget.overrun_policy", "9 is not a known OverrunPolicy"),  # type: ignore[arg-type]
        ({"routing": pb.Routing(strategy=9)}, "routing.strategy", "9 is not a known Strategy"),  # type: ignore[arg-type]
        ({"routing": pb.Routing(allowed=[9])}, "routing.allowed[0]", "9 is not a known Strategy"),  # type: ignore[list-item]
        ({"cache_control": 9}, "cache_control", "9 is not a known CacheControl"),
        ({"min_score": math.nan}, "min_score", "must be a finite number"),
        ({"request_id": "x" * 129}, "request_id", "has 129 characters; at most 128"),
    ],
)
async def test_invalid_field(stub: RerankServiceStub, fields: dict[str, Any], field: str, words: str) -> None:
    """INVALID_ARGUMENT: BadRequest names the field, the message says what would be right, ErrorInfo has an id."""
    sent = message(*TEXTS)
    for name in fields:
        sent.ClearField(name)  # type: ignore[arg-type]
    sent.MergeFrom(pb.RerankRequest(**fields))
    failure = await failure_of(rerank(stub, sent))
    assert failure.code == "INVALID_ARGUMENT"
    assert words in failure.fields[field]
    assert failure.message == f"{field}: {failure.fields[field]}"
    assert (failure.info.reason, failure.info.domain) == ("INVALID_FIELD", "millirank.io")
    assert failure.info.metadata["request_id"]


async def test_invalid_field_inside_an_explain_request(stub: RerankServiceStub) -> None:
    """ExplainRoute refuses what Rerank refuses."""
    failure = await failure_of(stub.ExplainRoute(pb.ExplainRouteRequest(), timeout=TIMEOUT_S))
    assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", ["query"])


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x1a\x02\xc3\x28", b"\x1a\x10short"])
async def test_bytes_that_are_no_message(address: str, data: bytes) -> None:
    """Damaged bytes and bad UTF-8: INVALID_ARGUMENT in words, not gRPC's bare INTERNAL or UNKNOWN."""
    async with grpc.aio.insecure_channel(address) as channel:
        failure = await failure_of(channel.unary_unary(RERANK)(data, timeout=TIMEOUT_S))
    assert failure.code == "INVALID_ARGUMENT"
    assert "the bytes are not a millirank.v1.RerankRequest" in failure.message
    assert failure.info.reason == "INVALID_FIELD"


async def test_unknown_reranker(stub: RerankServiceStub) -> None:
    """NOT_FOUND lists what there is."""
    failure = await failure_of(rerank(stub, message(*TEXTS, routing=pb.Routing(reranker="nope"))))
    assert (failure.code, failure.info.reason) == ("NOT_FOUND", "UNKNOWN_RERANKER")
    assert "no reranker is named 'nope'; configured: scripted (cross_encoder)" in failure.message


async def test_strategy_that_nothing_implements(stub: RerankServiceStub) -> None:
    """NOT_FOUND for a strategy as well."""
    failure = await failure_of(rerank(stub, message(*TEXTS, routing=pb.Routing(strategy="STRATEGY_CASCADE"))))
    assert failure.code == "NOT_FOUND"
    assert "configured: scripted" in failure.message


async def test_reranker_that_is_off(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """FAILED_PRECONDITION with the reason, with and without FAIL: a forced arm always errs."""
    reranker.state = Availability(State.OFF, "base_url is not set")
    for budget in (None, FAIL):
        sent = message(*TEXTS, routing=pb.Routing(reranker="scripted"), budget=budget)
        failure = await failure_of(rerank(stub, sent))
        assert (failure.code, failure.info.reason) == ("FAILED_PRECONDITION", "RERANKER_OFF")
        assert "base_url is not set" in failure.message


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (NotReadyError("loading"), "NOT_READY"),
        (BackendError("down"), "BACKEND_ERROR"),
        (CircuitOpenError("left alone"), "CIRCUIT_OPEN"),
        (BadOutputError("no JSON"), "BAD_OUTPUT"),
        (Scored(scores=(math.inf,), tokens=1), "BAD_OUTPUT"),
        (TimeoutError(), "BACKEND_TIMEOUT"),
    ],
)
async def test_failing_backend(
    stub: RerankServiceStub, parts: Rig, reranker: ScriptedReranker, fault: Exception | Scored, reason: str
) -> None:
    """Invariants 2 and 5: OK in first-stage order with the reason in answer, metric and span; an error with FAIL."""
    reranker.script = [fault, fault]
    response = await rerank(stub, message(*TEXTS))
    assert order_of(response) == [0, 1, 2]
    assert response.completeness == pb.COMPLETENESS_FIRST_STAGE_ONLY
    assert reasons_of(response) == [reason]
    (counted,) = parts.metrics()["millirank.degradations"]
    assert counted["attributes"] == {"millirank.degradation": reason.lower()}
    span = parts.span("millirank.v1.RerankService/Rerank")
    assert span.attributes is not None
    assert span.attributes["millirank.degradation"] == (reason.lower(),)

    failure = await failure_of(rerank(stub, message(*TEXTS, budget=FAIL)))
    if reason == "BACKEND_TIMEOUT":
        assert (failure.code, failure.retry_s) == ("DEADLINE_EXCEEDED", None)
    else:
        assert (failure.code, failure.retry_s) == ("UNAVAILABLE", 1.0)
    assert failure.info.reason == reason


async def test_message_above_the_wire_limit(stub: RerankServiceStub, parts: Rig) -> None:
    """Invariant 10: 5 MB are refused by gRPC itself, before any of our code sees them; 4 MB are taken."""
    failure = await failure_of(rerank(stub, message("x" * 5_000_000)))
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert parts.spans.get_finished_spans() == ()
    response = await rerank(stub, message("x" * 4_000_000, "red"))
    assert [result.truncated for result in sorted(response.results, key=lambda result: result.index)] == [True, False]


async def test_gzip_bomb_is_refused(address: str) -> None:
    """Invariant 10: 16 MB that travel as 16 kB are refused as well."""
    bomb = message("x" * 16_000_000).SerializeToString()
    assert len(zlib.compress(bomb)) < 50_000
    async with grpc.aio.insecure_channel(address) as channel:
        failure = await failure_of(
            channel.unary_unary(RERANK)(bomb, timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        )
    assert failure.code == "RESOURCE_EXHAUSTED"


async def test_more_requests_than_the_limit(reranker: ScriptedReranker) -> None:
    """Invariant 10: requests above `concurrent_requests` are refused, those within are answered."""
    parts = rig(reranker, settings=Settings(limits=Limits(concurrent_requests=1)))
    reranker.gate = asyncio.Event()
    async with parts.served() as (address,), connected(address) as stub:
        first = asyncio.ensure_future(rerank(stub, message(*TEXTS, budget_ms=3_600_000.0)))
        await reranker.entered.wait()
        failure = await failure_of(rerank(stub, message(*TEXTS, tenant="other")))
        assert failure.code == "RESOURCE_EXHAUSTED"
        reranker.gate.set()
        assert order_of(await first) == [1, 2, 0]


@pytest.mark.parametrize("cache", [pb.CACHE_CONTROL_USE, pb.CACHE_CONTROL_BYPASS])
async def test_bug_is_internal_without_its_words(
    stub: RerankServiceStub,
    parts: Rig,
    reranker: ScriptedReranker,
    caplog: pytest.LogCaptureFixture,
    cache: pb.CacheControl,
) -> None:
    """Invariant 11: an exception that carries a secret is INTERNAL with a request_id under which the log has its
    type and place; its words reach neither caller, log, span nor metric."""
    caplog.set_level(logging.DEBUG)
    reranker.script = [RuntimeError(f"secret {MARKER}")]
    failure = await failure_of(rerank(stub, message(*TEXTS, request_id="r-7", cache_control=cache)))
    assert (failure.code, failure.info.reason) == ("INTERNAL", "INTERNAL")
    assert failure.info.metadata["request_id"] == "r-7"
    assert "r-7" in failure.message
    lines = [JsonFormatter().format(record) for record in caplog.records]
    (logged,) = [entry for entry in map(json.loads, lines) if entry["message"] == "request failed"]
    assert (logged["request_id"], logged["level"]) == ("r-7", "error")
    assert logged["error"].startswith("RuntimeError at ")
    everything = [
        failure.message.encode(),
        failure.raw,
        *(line.encode() for line in lines),
        *(span.to_json().encode() for span in parts.spans.get_finished_spans()),
        json.dumps(parts.metrics()).encode(),
    ]
    assert not any(MARKER.encode() in each for each in everything)


async def test_invalid_request_is_logged_without_its_texts(
    stub: RerankServiceStub, parts: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 11: refusing a request does not write its query or documents anywhere."""
    caplog.set_level(logging.DEBUG)
    failure = await failure_of(rerank(stub, message(MARKER, query=MARKER, min_score=math.nan)))
    assert MARKER not in failure.message
    assert MARKER.encode() not in failure.raw
    assert not any(MARKER in JsonFormatter().format(record) for record in caplog.records)
    assert not any(MARKER in span.to_json() for span in parts.spans.get_finished_spans())


@pytest.mark.parametrize("cache", [pb.CACHE_CONTROL_USE, pb.CACHE_CONTROL_BYPASS])
async def test_stray_cancellation_is_internal_at_once(
    stub: RerankServiceStub, reranker: ScriptedReranker, cache: pb.CacheControl
) -> None:
    """A CancelledError out of the inside, with nobody having cancelled: INTERNAL, where left alone the caller would
    wait for its deadline. Had it done so, the code would be DEADLINE_EXCEEDED."""
    reranker.script = [asyncio.CancelledError()]
    failure = await failure_of(rerank(stub, message(*TEXTS, cache_control=cache)))
    assert (failure.code, failure.info.reason) == ("INTERNAL", "INTERNAL")
    assert order_of(await rerank(stub, message(*TEXTS))) == [1, 2, 0]  # and the next one is answered
