"""The Python example, clients/python/examples/search: with a sidecar that answers as told, and with a real one."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from millirank import Client, Reason
from millirank.testing import FakeSidecar
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from peers import ROOMY_MS, stopped_port

from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.sidecar_process import SidecarProcess

# The example is a program, not a package.
sys.path.insert(0, str(Path(__file__).parents[2] / "clients/python/examples/search"))
from first_stage import Index
from service import SearchService

PAGES = [
    json.dumps({"id": "open", "text": "Open a file and return a stream."}),
    json.dumps({"id": "close", "text": "Close the file."}),
    json.dumps({"id": "sorted", "text": "A new list with all items in order."}),
]


@pytest.fixture(scope="module")
def index() -> Index:
    """Both indexes over `PAGES`."""
    return Index(PAGES)


def test_the_first_stage_joins_words_and_vectors(index: Index) -> None:
    """What has the words comes first, with its BM25 score; what only the vectors found follows, with none."""
    hits = index.search("open a file", 3)

    assert [hit.id for hit in hits] == ["open", "close", "sorted"]
    assert hits[0].bm25 > hits[1].bm25 > hits[2].bm25 == 0.0


def test_a_query_of_unknown_words_finds_nothing(index: Index) -> None:
    """No word, no vector: nothing to rank, and no error."""
    with Client(stopped_port()) as client:
        assert SearchService(index, client).search("xyzzy").ranking.documents == []


def test_the_sidecars_order_is_the_answer(index: Index) -> None:
    """The service's own hits come back in the sidecar's order."""
    with FakeSidecar() as sidecar, Client(sidecar.target) as client:
        answer = SearchService(index, client, budget_ms=ROOMY_MS).search("open a file")

    assert answer.ranking.documents == answer.found[::-1]


def test_without_a_sidecar_the_service_works_as_before(index: Index) -> None:
    """The first stage's order, and why."""
    with Client(stopped_port()) as client:
        answer = SearchService(index, client).search("open a file")

    assert answer.ranking.documents == answer.found
    assert answer.ranking.reasons == (Reason.SIDECAR_UNAVAILABLE,)


def test_one_connected_tree_of_spans(index: Index) -> None:
    """From the service's span over the client's and the sidecar's down to the scoring, each below the one before."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        OtlpReceiver() as receiver,
        SidecarProcess({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}) as sidecar,
        Client(sidecar.addresses[0], tracer_provider=provider) as client,
    ):
        service = SearchService(index, client, budget_ms=ROOMY_MS, provider=provider)
        deadline = time.monotonic() + 60.0
        while (decision := service.search("open a file").ranking.decision) is None or not decision.scored_k:
            assert time.monotonic() < deadline, "no model has scored anything"
            time.sleep(0.1)  # it is loading
            exporter.clear()
        search = one(exporter, "search")
        rpc = one(exporter, "millirank.v1.RerankService/Rerank")
        assert search.parent is None
        assert rpc.parent is not None
        assert search.context is not None
        assert rpc.context is not None
        assert rpc.parent.span_id == search.context.span_id
        trace_id = rpc.context.trace_id.to_bytes(16, "big")

        def theirs() -> list[Span]:
            return [span for span in receiver.spans() if span.trace_id == trace_id]

        receiver.wait_until(lambda: {"route", "score"} < {span.name for span in theirs()})
        (server,) = (span for span in theirs() if span.kind == Span.SPAN_KIND_SERVER)
        assert server.parent_span_id == rpc.context.span_id.to_bytes(8, "big")
        below = {span.name for span in theirs() if span.parent_span_id == server.span_id}
        assert {"route", "score"} <= below


def one(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    """The only span of this name."""
    (found,) = (span for span in exporter.get_finished_spans() if span.name == name)
    return found
