"""The contract over a real channel: answers, every row of the table of errors, cancellation.

The server is the real one, in this process, around a reranker whose faults are programmed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1.rerank_service_pb2_grpc import RerankServiceStub

from router.arms import Availability, State
from sidecar.logs import JsonFormatter
from sidecar.rerankers.base import BackendError, BadOutputError, CircuitOpenError, NotReadyError, Scored
from sidecar.rerankers.base import Limits as RerankerLimits
from sidecar.settings import Limits, Listen, Settings
from tests.e2e.rpc import TIMEOUT_S, connected, failure_of, message, order_of, reasons_of
from tests.helpers import MARKER, Rig, ScriptedReranker, rig

TEXTS = ("blue", "red green", "red")
RERANK = "/millirank.v1.RerankService/Rerank"
FAIL = pb.Budget(overrun_policy=pb.OVERRUN_POLICY_FAIL)


@pytest.fixture
def reranker() -> ScriptedReranker:
    return ScriptedReranker(limits=RerankerLimits(max_chunk_documents=1))


@pytest.fixture
def parts(reranker: ScriptedReranker) -> Rig:
    return rig(reranker)


@pytest.fixture
async def stub(parts: Rig) -> AsyncIterator[RerankServiceStub]:
    async with parts.served() as (address,), connected(address) as stub:
        yield stub


@pytest.fixture
async def address(parts: Rig) -> AsyncIterator[str]:
    async with parts.served() as (address,):
        yield address


async def rerank(stub: RerankServiceStub, sent: pb.RerankRequest) -> pb.RerankResponse:
    return await stub.Rerank(sent, timeout=TIMEOUT_S)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_answer_over_tcp_and_unix_socket(kind: str, tmp_path: Path, parts: Rig) -> None:
    """The same answer over either listener."""
    listen = Listen(tcp="127.0.0.1:0") if kind == "tcp" else Listen(tcp="", unix=str(tmp_path / "m.sock"))
    async with parts.served(listen) as (address,), connected(address) as stub:
        response = await rerank(stub, message(*TEXTS, request_id="mine"))
    assert order_of(response) == [1, 2, 0]
    assert response.request_id == "mine"
    assert response.completeness == pb.COMPLETENESS_FULL
    assert response.decision.reranker == "scripted"


async def test_no_documents_is_ok_and_empty(stub: RerankServiceStub) -> None:
    """Nothing to order is no error."""
    response = await rerank(stub, message())
    assert order_of(response) == []
    assert response.completeness == pb.COMPLETENESS_FULL
    assert response.request_id


async def test_duplicate_ids_come_back_by_index(stub: RerankServiceStub) -> None:
    """Ids may repeat and may be empty: the index tells candidates apart."""
    sent = message()
    for text in TEXTS:
        sent.documents.add(id="same", text=text)
    response = await rerank(stub, sent)
    assert [(result.id, result.index) for result in response.results] == [("same", 1), ("same", 2), ("same", 0)]


async def test_explain_route_decides_without_working(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """The decision with every arm, and the traits; nothing is scored."""
    explained = await stub.ExplainRoute(pb.ExplainRouteRequest(request=message(*TEXTS)), timeout=TIMEOUT_S)
    assert explained.decision.reranker == "scripted"
    assert (explained.decision.planned_k, explained.decision.scored_k) == (3, 0)
    assert (explained.traits.documents, explained.traits.query_words) == (3, 2)
    assert {arm.verdict for arm in explained.decision.considered} == {dpb.VERDICT_CHOSEN, dpb.VERDICT_LOWER_GAIN}
    assert reranker.calls == []


# --- INVALID_ARGUMENT ------------------------------------------------------------------------------------------------


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


# --- other rows of the table -----------------------------------------------------------------------------------------


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


async def test_zero_budget(stub: RerankServiceStub) -> None:
    """OK in first-stage order with BUDGET_TOO_SMALL; DEADLINE_EXCEEDED with FAIL."""
    response = await rerank(stub, message(*TEXTS, budget_ms=0.0))
    assert (order_of(response), reasons_of(response)) == ([0, 1, 2], ["BUDGET_TOO_SMALL"])
    assert response.decision.spendable.ToNanoseconds() == 0
    sent = message(*TEXTS, budget_ms=0.0)
    sent.budget.overrun_policy = pb.OVERRUN_POLICY_FAIL
    failure = await failure_of(rerank(stub, sent))
    assert (failure.code, failure.info.reason) == ("DEADLINE_EXCEEDED", "BUDGET_TOO_SMALL")


async def test_absent_budget(stub: RerankServiceStub) -> None:
    """100 ms without a deadline or with a long one; what is left of a shorter deadline; less the reserve of 2 ms."""
    for timeout in (None, 600.0):
        response = await stub.Rerank(message(*TEXTS), timeout=timeout)
        assert response.decision.spendable.ToMilliseconds() == 98


async def test_budget_larger_than_the_deadline(stub: RerankServiceStub) -> None:
    """What is left of the deadline counts, and never more than that, although gRPC rounds timeouts up on their way.
    The lower bounds are generous: the way here may take long on a loaded machine."""
    for timeout, least_ms in ((0.9, 100), (1.5, 700), (20.0, 10_000), (150.0, 100_000)):
        response = await stub.Rerank(message(*TEXTS, budget_ms=3_600_000.0), timeout=timeout)
        assert least_ms < response.decision.spendable.ToMilliseconds() <= timeout * 1e3 - 1


async def test_time_before_a_request_is_read_counts(address: str) -> None:
    """While the event loop is busy for 300 ms nobody reads the request; its deadline, 100 ms after the end of its
    budget of 800 ms, tells how long that was. A caller who does not say by how much they differ gets the whole budget.
    """
    spent = message(*TEXTS, budget_ms=800.0)
    spent.budget.deadline_slack.FromMilliseconds(100)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(RERANK, response_deserializer=pb.RerankResponse.FromString)
        unsaid = message(*TEXTS, budget_ms=800.0)
        for sent, timeout, least_ms, most_ms in ((unsaid, 5.0, 798, 798), (spent, 0.9, 0, 780)):
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, TIMEOUT_S)
            answer = asyncio.get_running_loop().run_in_executor(None, call, sent.SerializeToString(), timeout)
            time.sleep(0.3)  # on the event loop, on purpose
            response = await answer
            assert least_ms <= response.decision.spendable.ToMilliseconds() <= most_ms


async def test_expired_deadline(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """A deadline that is over is over: DEADLINE_EXCEEDED at the caller, and nothing is scored for it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Rerank(message(*TEXTS), timeout=-1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await rerank(stub, message("a"))  # whatever came before it has been handled
    assert reranker.calls == []


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


# --- bugs, secrets and callers that leave ----------------------------------------------------------------------------


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


async def test_caller_that_leaves_stops_the_work(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """Invariant 6: a call that is cancelled at the client is cancelled in the reranker; no new chunk starts."""
    reranker.gate = asyncio.Event()
    call = stub.Rerank(message(*TEXTS, budget_ms=3_600_000.0), timeout=TIMEOUT_S)
    await asyncio.sleep(0)
    asyncio.ensure_future(call)  # noqa: RUF006 - it ends with the cancellation below
    await reranker.entered.wait()
    call.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        while not reranker.cancelled:
            await asyncio.sleep(0.002)
    reranker.gate.set()
    await rerank(stub, message("a"))  # a round trip later nothing has started
    assert (len(reranker.calls), reranker.finished) == (1, 0)


async def test_deadline_stops_the_work(stub: RerankServiceStub, reranker: ScriptedReranker) -> None:
    """Invariant 6: when the caller's deadline ends in the first of three chunks, the others never start. The server's
    answer is 2 ms (its reserve) ahead of the deadline, which on a loaded machine may win: both are right."""
    reranker.gate = asyncio.Event()
    sent = message(*TEXTS, routing=pb.Routing(reranker="scripted"), budget_ms=3_600_000.0)
    (ended,) = await asyncio.gather(stub.Rerank(sent, timeout=0.5), return_exceptions=True)
    if isinstance(ended, grpc.aio.AioRpcError):
        assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        assert reasons_of(ended) == ["BACKEND_TIMEOUT"]
    reranker.gate.set()
    await rerank(stub, message("a"))
    assert (len(reranker.calls), reranker.finished) == (1, 0)


# --- health, reflection, tracing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", "millirank.v1.RerankService"])
async def test_health_is_serving_from_the_start(address: str, service: str) -> None:
    """Both the whole server and the service are SERVING as soon as the address is known."""
    async with grpc.aio.insecure_channel(address) as channel:
        checked = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S
        )
    assert checked.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_and_describes_the_service(address: str) -> None:
    """A reflection client finds the services, and the full definition of Rerank's messages."""

    def listed() -> tuple[list[str], list[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = list(database.get_services())
            file = database.FindFileContainingSymbol("millirank.v1.RerankService")
            decision = database.FindFileContainingSymbol("millirank.v1.Decision")
            methods = [method.name for service in file.service for method in service.method]
            return services, methods, [each.name for each in decision.message_type]

    services, methods, messages = await asyncio.to_thread(listed)
    assert set(services) == {
        "millirank.v1.RerankService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert methods == ["Rerank", "ExplainRoute"]
    assert "Decision" in messages


async def test_unknown_method(address: str) -> None:
    """A method of another version is UNIMPLEMENTED."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/millirank.v1.RerankService/RerankStream")(b"", timeout=TIMEOUT_S)
        assert (await failure_of(call)).code == "UNIMPLEMENTED"


async def test_draining_server(parts: Rig, reranker: ScriptedReranker) -> None:
    """Invariant 8: while it lingers, health says NOT_SERVING, new calls get first-stage order with DRAINING, and the
    call that was accepted before is answered in full."""
    reranker.gate = asyncio.Event()
    async with parts.served() as (address,), connected(address) as stub, grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        accepted = asyncio.ensure_future(rerank(stub, message(*TEXTS, budget_ms=3_600_000.0)))
        await reranker.entered.wait()
        stopping = asyncio.create_task(parts.servers[0].stop(linger_s=1.0, drain_s=TIMEOUT_S))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        late = await rerank(stub, message(*TEXTS, tenant="late"))
        assert (order_of(late), reasons_of(late)) == ([0, 1, 2], ["DRAINING"])
        failure = await failure_of(rerank(stub, message(*TEXTS, tenant="strict", budget=FAIL)))
        assert (failure.code, failure.info.reason, failure.retry_s) == ("UNAVAILABLE", "DRAINING", 1.0)
        reranker.gate.set()
        assert order_of(await accepted) == [1, 2, 0]
        await stopping
        assert (await failure_of(rerank(stub, message(*TEXTS)))).code == "UNAVAILABLE"
