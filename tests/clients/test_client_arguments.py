"""Wrong arguments are named, with the fix, before the network is used."""

from __future__ import annotations

import math
from typing import Any

import pytest
from millirank import AsyncClient, Client, Document, InvalidRequestError
from millirank.testing import FakeSidecar
from peers import DOCUMENTS

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("query", {"query": "  "}),
    ("query", {"query": None}),
    ("query", {"query": "lone \ud800"}),
    ("documents", {"documents": "one string"}),
    ("documents", {"documents": {"a": 1}}),
    ("documents", {"documents": {"a", "b"}}),
    ("documents", {"documents": 3}),
    ("documents[0]", {"documents": [{"body": "x"}]}),
    ("documents[1].text", {"documents": ["fine", Document(text=None)]}),  # type: ignore[arg-type]
    ("documents[1].text", {"documents": ["fine", "\udfff"]}),
    ("documents[0].text", {"text": lambda document: b"bytes"}),
    ("documents[0].id", {"id": lambda document: 7}),
    ("documents[0].id", {"id": lambda document: "x" * 513}),
    ("documents[0].signals", {"signals": lambda document: [1.0]}),
    ("documents[0].signals", {"signals": lambda document: {1: 1.0}}),
    ("documents[0].signals", {"signals": lambda document: {f"s{i}": 1.0 for i in range(17)}}),
    ("documents[0].signals['bm25']", {"signals": lambda document: {"bm25": math.nan}}),
    ("documents[0].signals['bm25']", {"signals": lambda document: {"bm25": None}}),
    ("documents[0].signals['bm25']", {"signals": lambda document: {"bm25": "2.5"}}),
    ("documents[0].indexed_ref", {"documents": [Document(indexed_ref="docs/7")]}),  # type: ignore[arg-type]
    ("documents[0].indexed_ref", {"documents": [Document(indexed_ref=("docs", "7", "8"))]}),  # type: ignore[arg-type]
    ("documents[0].indexed_ref.collection", {"documents": [Document(indexed_ref=("", "7"))]}),
    ("documents[0].indexed_ref.id", {"documents": [Document(indexed_ref=("docs", 7))]}),  # type: ignore[arg-type]
    ("documents[0].indexed_ref.id", {"documents": [Document(indexed_ref=("docs", "x" * 513))]}),
    ("budget_ms", {"budget_ms": -1}),
    ("budget_ms", {"budget_ms": math.inf}),
    ("budget_ms", {"budget_ms": "100"}),
    ("budget_ms", {"budget_ms": True}),
    ("budget_ms", {"budget_ms": 1e9}),
    ("top_n", {"top_n": -1}),
    ("top_n", {"top_n": 2.5}),
    ("top_n", {"top_n": 2**32}),
    ("rerank_k", {"rerank_k": True}),
    ("strategy", {"strategy": "best"}),
    ("strategy", {"strategy": None}),
    ("allowed", {"allowed": "llm"}),
    ("allowed[1]", {"allowed": ["llm", "best"]}),
    ("reranker", {"reranker": None}),
    ("instruction", {"instruction": 5}),
    ("min_score", {"min_score": math.nan}),
    ("max_cost_micro_usd", {"max_cost_micro_usd": -1}),
    ("corpus", {"corpus": "x" * 129}),
    ("tenant", {"tenant": "x" * 129}),
    ("request_id", {"request_id": "x" * 129}),
]


@pytest.mark.parametrize(
    ("field", "wrong"), WRONG, ids=[f"{field}-{number}" for number, (field, _) in enumerate(WRONG)]
)
async def test_a_wrong_argument_is_named_and_nothing_is_sent(
    client: Any, sidecar: FakeSidecar, field: str, wrong: dict[str, Any]
) -> None:
    """InvalidRequestError, which is a ValueError, with the argument as its field; for rerank and explain."""
    arguments: dict[str, Any] = {"query": "query", "documents": DOCUMENTS, **wrong}

    for method in (client.rerank, client.explain):
        with pytest.raises(InvalidRequestError) as caught:
            await method(**arguments)
        assert caught.value.field == field
        assert str(caught.value).startswith(field)
        assert isinstance(caught.value, ValueError)

    assert sidecar.requests == []
    assert client.stats.calls == 0


async def test_an_error_about_text_does_not_quote_it(client: Any) -> None:
    """Private text stays out of exceptions: neither the message nor the chained cause shows it."""
    with pytest.raises(InvalidRequestError) as caught:
        await client.rerank("query", ["secret \ud800"])

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_numbers_of_other_libraries_are_numbers(client: Any, sidecar: FakeSidecar) -> None:
    """numpy scalars work as budget, counts and signals."""
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")

    await client.rerank(
        "query",
        numpy.array(DOCUMENTS, dtype=object),
        budget_ms=numpy.float32(100),
        top_n=numpy.int64(3),
        signals=lambda document: {"dense": numpy.float32(0.5)},
    )

    assert sidecar.requests[-1].top_n == 3
    assert dict(sidecar.requests[-1].documents[0].signals) == {"dense": 0.5}


async def test_a_document_may_be_a_reference_into_an_index(client: Any, sidecar: FakeSidecar) -> None:
    """Collection and id go along, with no text; a document without a reference sends none."""
    await client.rerank("query", [Document(id="a", indexed_ref=("docs", "7")), Document(text="b")])

    first, second = sidecar.requests[-1].documents
    assert (first.indexed_ref.collection, first.indexed_ref.id, first.text) == ("docs", "7", "")
    assert not second.HasField("indexed_ref")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("expected", "message", "arguments"),
    [
        (TypeError, "target", {"target": 50051}),
        (ValueError, "host:port", {"target": "localhost"}),
        (ValueError, "host:port", {"target": "localhost:99999"}),
        (ValueError, "looks like a URL", {"target": "http://localhost:50051"}),
        (TypeError, "ssl_channel_credentials", {"credentials": "cert.pem"}),
        (TypeError, "pairs", {"options": ["grpc.keepalive_time_ms"]}),
        (ValueError, "reserve_ms", {"reserve_ms": -1}),
        (ValueError, "slack_ms", {"slack_ms": math.nan}),
    ],
)
def test_a_wrong_constructor_argument_is_named(
    kind: Any, expected: type[Exception], message: str, arguments: dict[str, Any]
) -> None:
    """Nothing is connected: the message says which argument and what to pass."""
    with pytest.raises(expected, match=message):
        kind(**{"target": "localhost:50051", **arguments})


@pytest.mark.parametrize("target", ["localhost:1", "[::1]:1", "unix:/run/x.sock", "dns:///host:1", "10.0.0.1:1"])
def test_every_kind_of_target_is_taken(target: str) -> None:
    """Host names, IPv4, IPv6, sockets and resolver URIs."""
    Client(target).close()


async def test_wait_until_ready_names_its_argument(client: Any) -> None:
    """A negative or infinite wait is refused."""
    for wrong in (-1.0, math.inf):
        with pytest.raises(ValueError, match="timeout_s"):
            await client.wait_until_ready(wrong)


def test_own_channel_options_win() -> None:
    """An option of the caller replaces the client's own of the same name; the others stay."""
    from millirank._channel import channel_options

    options = dict(channel_options([("grpc.keepalive_time_ms", 1), ("grpc.lb_policy_name", "round_robin")]))

    assert options["grpc.keepalive_time_ms"] == 1
    assert options["grpc.lb_policy_name"] == "round_robin"
    assert options["grpc.initial_reconnect_backoff_ms"] == 50
