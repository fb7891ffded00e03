"""Requests, over gRPC and HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.fusion import fuse, order
from router.profile import FusionWeights
from router.traits import extract
from sidecar import settings, wire
from sidecar.errors import InvalidFieldError
from sidecar.http_shapes import BUDGET_HEADER, CORPUS_HEADER, TENANT_HEADER, read_request
from sidecar.messages import Request
from tests.fuzz.target import Target

LIMITS = settings.Limits()


def _wire(data: bytes) -> None:
    _check_request(wire.parse_rerank(data, LIMITS))


def _explain(data: bytes) -> None:
    _check_request(wire.parse_explain(data, LIMITS))


def _http(data: bytes) -> None:
    """Three lines of headers as aiohttp decodes them (budget, corpus, tenant), then the body."""
    *lines, body = data.split(b"\n", 3)
    names = (BUDGET_HEADER, CORPUS_HEADER, TENANT_HEADER)
    headers = {name: line.decode("utf-8", "surrogateescape") for name, line in zip(names, lines, strict=False) if line}
    message, _ = read_request(body, headers, ("scripted",), LIMITS.documents)
    _check_request(wire.parse_rerank(message.SerializeToString(), LIMITS))


def _check_request(request: Request) -> None:
    """Limits hold, and what the router and the fusion make of the request is sound."""
    assert len(request.candidates) <= LIMITS.documents
    assert all(len(each.text) <= LIMITS.document_characters for each in request.candidates)
    assert request.budget_ms is None or 0.0 <= request.budget_ms < math.inf
    signals = [each.signals for each in request.candidates]
    traits = extract(request.query, [len(each.text) for each in request.candidates], signals)
    assert math.isfinite(traits.margin)
    positions = range(len(signals))
    weights = FusionWeights(0.0, dict.fromkeys((*traits.signals, "rank"), 1.0))
    fused = fuse(None, signals, positions, weights)
    assert all(map(math.isfinite, fused))
    assert sorted(order(fused, positions, len(signals))) == list(positions)


def _request_seeds() -> Iterator[pb.RerankRequest]:
    yield pb.RerankRequest(query="red", documents=[pb.Document(id="a", text="red"), pb.Document(id="b", text="blue")])
    full = pb.RerankRequest(
        request_id="r", corpus="c", query="q\u00e9", top_n=1, instruction="i", min_score=0.5, tenant="t",
        cache_control=pb.CACHE_CONTROL_BYPASS,
        routing=pb.Routing(strategy=dpb.STRATEGY_LLM, reranker="llm", allowed=[dpb.STRATEGY_NONE], rerank_k=10),
        budget=pb.Budget(max_cost_micro_usd=7, overrun_policy=pb.OVERRUN_POLICY_FAIL),
    )  # fmt: skip
    full.budget.latency.FromMilliseconds(100)
    for number, signal in enumerate((1.5, -1e308, 1e308)):
        full.documents.add(id=str(number), text="t", signals={"bm25": signal, "dense": 0.1})
    full.documents.add(indexed_ref=pb.IndexedRef(collection="c", id="7"))
    yield full
    yield pb.RerankRequest(query="q", documents=[pb.Document()], routing=pb.Routing(strategy=dpb.STRATEGY_NONE))


_HTTP_BODIES: tuple[dict[str, object], ...] = (
    {"model": "rerank-v3.5", "query": "red", "documents": ["red", {"text": "blue"}], "top_n": 1},
    {"model": "scripted", "query": "q", "documents": ["a"], "return_documents": True, "max_tokens_per_doc": 9},
)

TARGETS = (
    Target("wire", _wire, (InvalidFieldError,), tuple(each.SerializeToString() for each in _request_seeds())),
    Target(
        "explain",
        _explain,
        (InvalidFieldError,),
        tuple(pb.ExplainRouteRequest(request=each).SerializeToString() for each in _request_seeds()),
    ),
    Target(
        "http",
        _http,
        (InvalidFieldError,),
        tuple(b"100\nlegal\ntenant\n" + json.dumps(body).encode() for body in _HTTP_BODIES),
    ),
)
