"""Strategy NONE: nobody is going to read texts and signals, so they are neither checked nor copied."""

from __future__ import annotations

import math
from typing import Any

import pytest
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from sidecar import wire
from sidecar.errors import InvalidFieldError
from sidecar.messages import Candidate, Request
from sidecar.settings import Limits
from tests.e2e.rpc import connected, failure_of, order_of
from tests.helpers import ScriptedReranker, rig

AUTO = pb.Routing(strategy=dpb.STRATEGY_AUTO)
NONE = pb.Routing(strategy=dpb.STRATEGY_NONE)

# What is wrong with the second of two documents, and the field that says so where it is read.
UNREAD = [
    (pb.Document(id="b"), "documents[1].text"),
    (pb.Document(id="b", text="x", signals={"bm25": math.nan}), "documents[1].signals['bm25']"),
    (pb.Document(id="b", text="x", signals={"": 1.0}), "documents[1].signals"),
    (pb.Document(id="b", text="x", signals={str(n): 1.0 for n in range(17)}), "documents[1].signals"),
    (pb.Document(id="b", text="x", indexed_ref=pb.IndexedRef(id="7")), "documents[1].indexed_ref.collection"),
]


def message(second: pb.Document, routing: pb.Routing, **fields: Any) -> pb.RerankRequest:
    documents = [pb.Document(id="a", text="one", signals={"bm25": 1.0}), second]
    return pb.RerankRequest(**{"query": "q", "documents": documents, "routing": routing, **fields})


def parse(sent: pb.RerankRequest) -> Request:
    return wire.parse_rerank(sent.SerializeToString(), Limits())


def refused(sent: pb.RerankRequest) -> InvalidFieldError:
    with pytest.raises(InvalidFieldError) as caught:
        parse(sent)
    return caught.value


@pytest.mark.parametrize(("second", "field"), UNREAD)
def test_only_the_ids_are_read(second: pb.Document, field: str) -> None:
    """With NONE a candidate is its id; the same request with AUTO is refused by the field's name."""
    assert parse(message(second, NONE)).candidates == (Candidate("a", "", {}), Candidate("b", "", {}))
    assert refused(message(second, AUTO)).field == field


@pytest.mark.parametrize("routing", [AUTO, NONE])
def test_long_ids_are_refused_all_the_same(routing: pb.Routing) -> None:
    """Invariant 10: an id comes back in the answer, so that its limit always holds; 512 characters are within it."""
    error = refused(message(pb.Document(id="語" * 513, text="x"), routing))
    assert (error.field, error.description) == ("documents[1].id", "has 513 characters; at most 512")
    assert parse(message(pb.Document(id="語" * 512, text="x"), routing)).candidates[1].id == "語" * 512


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": " "}, "query"),
        ({"documents": [pb.Document()] * 1001}, "documents"),
        ({"min_score": math.inf}, "min_score"),
        ({"tenant": "x" * 129}, "tenant"),
    ],
)
def test_everything_else_is_checked_as_ever(fields: dict[str, Any], field: str) -> None:
    """NONE excuses texts and signals, nothing else."""
    assert refused(message(pb.Document(id="b"), NONE, **fields)).field == field


def test_named_reranker_beside_none_is_read() -> None:
    """NONE together with a reranker is a contradiction for the router to name; until then the texts count."""
    routing = pb.Routing(strategy=dpb.STRATEGY_NONE, reranker="scripted")
    assert refused(message(pb.Document(id="b"), routing)).field == "documents[1].text"


async def test_documents_without_text_keep_their_order_over_the_wire() -> None:
    """A served request with NONE is answered, ids and order kept; with AUTO it is INVALID_ARGUMENT."""
    reranker = ScriptedReranker()
    async with rig(reranker).served() as (address,), connected(address) as stub:
        answered = await stub.Rerank(message(pb.Document(id="b"), NONE))
        failure = await failure_of(stub.Rerank(message(pb.Document(id="b"), AUTO)))
    assert order_of(answered) == [0, 1]
    assert [result.id for result in answered.results] == ["a", "b"]
    assert (answered.completeness, len(answered.degradations)) == (pb.COMPLETENESS_FULL, 0)
    assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", ["documents[1].text"])
    assert reranker.calls == []
