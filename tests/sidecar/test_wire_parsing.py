"""Bytes -> request: what is refused, with the field's name and what would be right, and what comes through."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Strategy
from sidecar import wire
from sidecar.errors import InvalidFieldError
from sidecar.messages import Overrun, Request
from sidecar.rerankers.base import IndexedRef
from sidecar.settings import Limits

LIMITS = Limits()


def message(**fields: Any) -> pb.RerankRequest:
    """A valid request, with some fields replaced."""
    return pb.RerankRequest(**{"query": "q", "documents": [pb.Document(id="a", text="one")], **fields})


def parse(sent: pb.RerankRequest, limits: Limits = LIMITS) -> Request:
    return wire.parse_rerank(sent.SerializeToString(), limits)


def refused(sent: pb.RerankRequest, limits: Limits = LIMITS) -> InvalidFieldError:
    with pytest.raises(InvalidFieldError) as caught:
        parse(sent, limits)
    return caught.value


def test_every_field_arrives() -> None:
    """What the caller sent is what the pipeline gets, field by field."""
    parsed = parse(
        pb.RerankRequest(
            request_id="r",
            corpus="c",
            query="q",
            documents=[pb.Document(id="a", text="one", signals={"bm25": 1.5})],
            top_n=3,
            budget=pb.Budget(
                latency=Duration(seconds=1, nanos=500_000),
                max_cost_micro_usd=0,
                overrun_policy=pb.OVERRUN_POLICY_FAIL,
            ),
            routing=pb.Routing(
                strategy="STRATEGY_LLM",
                reranker="llm",
                allowed=["STRATEGY_LLM", "STRATEGY_SIGNALS"],
                rerank_k=7,
            ),
            instruction="i",
            min_score=-0.5,
            cache_control=pb.CACHE_CONTROL_BYPASS,
            tenant="t",
        )
    )
    assert (parsed.request_id, parsed.corpus, parsed.query, parsed.instruction, parsed.tenant) == (
        "r",
        "c",
        "q",
        "i",
        "t",
    )
    assert parsed.candidates[0].text == "one"
    assert dict(parsed.candidates[0].signals) == {"bm25": 1.5}
    assert (parsed.top_n, parsed.min_score, parsed.use_cache) == (3, -0.5, False)
    assert (parsed.budget_ms, parsed.max_micro_usd, parsed.overrun) == (1000.5, 0, Overrun.FAIL)
    assert parsed.routing.strategy is Strategy.LLM
    assert parsed.routing.allowed == {Strategy.LLM, Strategy.SIGNALS}
    assert (parsed.routing.reranker, parsed.routing.rerank_k) == ("llm", 7)


def test_absent_fields_are_told_from_zeros() -> None:
    """No budget, no price limit and no min_score are None, not 0; no id gets one, a different one every time."""
    first, second = parse(message()), parse(message())
    assert (first.budget_ms, first.max_micro_usd, first.min_score) == (None, None, None)
    assert first.overrun is Overrun.BEST_EFFORT
    assert first.routing.strategy is None
    assert first.use_cache
    assert first.request_id
    assert first.request_id != second.request_id


def test_budget_without_latency_counts_as_none() -> None:
    """A budget that limits only the price leaves the time to the default."""
    assert parse(message(budget=pb.Budget(max_cost_micro_usd=5))).budget_ms is None


@pytest.mark.parametrize("query", ["", " ", "\n\t ", "\u2003\u00a0"])
def test_query_without_words_is_refused(query: str) -> None:
    """An empty or white-space query names the field and what to send."""
    error = refused(message(query=query))
    assert error.field == "query"
    assert "send the user's query" in error.description


def test_documents_up_to_the_limit() -> None:
    """1,000 documents are taken, one more is refused with the count and the limit; 10,001 the same way."""
    assert len(parse(message(documents=[pb.Document(text="x")] * 1000)).candidates) == 1000
    for count in (1001, 10_001):
        error = refused(message(documents=[pb.Document(text="x")] * count))
        assert error.field == "documents"
        assert f"has {count} entries; at most 1000" in error.description
        assert "send the best ones" in error.description


def test_no_documents_is_a_valid_request() -> None:
    """No candidates is no mistake of the caller."""
    assert parse(message(documents=[])).candidates == ()


def test_long_document_is_cut_and_marked() -> None:
    """Invariant 10: only the first 8,192 characters of a document are kept, and it says so."""
    exact, longer = parse(message(documents=[pb.Document(text="ä" * 8192), pb.Document(text="ä" * 8193)])).candidates
    assert (len(exact.text), exact.truncated) == (8192, False)
    assert (len(longer.text), longer.truncated) == (8192, True)


def test_document_without_text_is_refused_by_position() -> None:
    """The one document among many that lacks its text is named."""
    error = refused(message(documents=[pb.Document(text="x"), pb.Document(id="b")]))
    assert error.field == "documents[1].text"


def test_document_in_an_index_needs_no_text() -> None:
    """An indexed_ref arrives as collection and id, with or without a text beside it; without one it is None."""
    ref = pb.IndexedRef(collection="docs", id="7")
    documents = [pb.Document(indexed_ref=ref), pb.Document(text="x", indexed_ref=ref), pb.Document(text="y")]
    alone, both, neither = parse(message(documents=documents)).candidates
    assert (alone.text, alone.indexed_ref) == ("", IndexedRef("docs", "7"))
    assert (both.text, both.indexed_ref) == ("x", IndexedRef("docs", "7"))
    assert neither.indexed_ref is None


@pytest.mark.parametrize(
    ("ref", "field", "words"),
    [
        (pb.IndexedRef(), "collection", "is empty; say where it lies"),
        (pb.IndexedRef(id="7"), "collection", "is empty; say where it lies"),
        (pb.IndexedRef(collection="docs"), "id", "is empty; say where it lies"),
        (pb.IndexedRef(collection="docs", id="x" * 513), "id", "has 513 characters; at most 512"),
        (pb.IndexedRef(collection="x" * 513, id="7"), "collection", "has 513 characters; at most 512"),
    ],
)
def test_half_a_reference_is_refused(ref: pb.IndexedRef, field: str, words: str) -> None:
    """A reference names both the collection and the id, each within the limit; a text does not make up for it."""
    error = refused(message(documents=[pb.Document(text="x"), pb.Document(text="y", indexed_ref=ref)]))
    assert (error.field, error.description) == (f"documents[1].indexed_ref.{field}", words)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_signals_must_be_finite(value: float) -> None:
    """A NaN or infinite signal names document and signal."""
    documents = [pb.Document(text="x"), pb.Document(text="y", signals={"bm25": value})]
    error = refused(message(documents=documents))
    assert error.field == "documents[1].signals['bm25']"
    assert "must be finite" in error.description


def test_signal_names_and_counts_are_bounded() -> None:
    """Sixteen signals are taken; a seventeenth and a nameless one are refused."""
    sixteen = {f"s{number}": 1.0 for number in range(16)}
    assert len(parse(message(documents=[pb.Document(text="x", signals=sixteen)])).candidates[0].signals) == 16
    surplus = refused(message(documents=[pb.Document(text="x", signals={**sixteen, "one more": 1.0})]))
    assert surplus.field == "documents[0].signals"
    assert "at most 16" in surplus.description
    nameless = refused(message(documents=[pb.Document(text="x", signals={"": 1.0})]))
    assert "without a name" in nameless.description


@pytest.mark.parametrize(
    ("fields", "field", "limit"),
    [
        ({"request_id": "x" * 129}, "request_id", 128),
        ({"corpus": "x" * 129}, "corpus", 128),
        ({"tenant": "x" * 129}, "tenant", 128),
        ({"query": "x" * 2049}, "query", 2048),
        ({"instruction": "x" * 2049}, "instruction", 2048),
        ({"routing": pb.Routing(reranker="x" * 129)}, "routing.reranker", 128),
        ({"documents": [pb.Document(id="x" * 513, text="y")]}, "documents[0].id", 512),
    ],
)
def test_long_strings_are_refused(fields: dict[str, Any], field: str, limit: int) -> None:
    """Invariant 10: every string but a document's text has a limit; the message says how much is too much."""
    error = refused(message(**fields))
    assert error.field == field
    assert error.description == f"has {limit + 1} characters; at most {limit}"


def test_strings_at_the_limit_are_taken() -> None:
    """Limits are inclusive, and counted in characters, not bytes."""
    assert parse(message(query="語" * 2048, tenant="語" * 128, request_id="語" * 128)).query == "語" * 2048


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_min_score_must_be_finite(value: float) -> None:
    """A threshold that nothing or everything passes is a mistake."""
    assert refused(message(min_score=value)).field == "min_score"


@pytest.mark.parametrize("latency", [Duration(seconds=-1), Duration(nanos=-1)])
def test_negative_budget_is_refused(latency: Duration) -> None:
    """Negative time names the field."""
    error = refused(message(budget=pb.Budget(latency=latency)))
    assert error.field == "budget.latency"
    assert "must not be negative" in error.description


def test_negative_deadline_slack_is_refused() -> None:
    """A deadline before the end of the budget names the field."""
    error = refused(message(budget=pb.Budget(deadline_slack=Duration(nanos=-1))))
    assert error.field == "budget.deadline_slack"
    assert "must not be negative" in error.description


def test_deadline_slack_is_optional() -> None:
    """51 ms, none and zero are different things."""
    assert parse(message(budget=pb.Budget(deadline_slack=Duration(nanos=51_000_000)))).deadline_slack_ms == 51.0
    assert parse(message(budget=pb.Budget(deadline_slack=Duration()))).deadline_slack_ms == 0.0
    assert parse(message(budget=pb.Budget())).deadline_slack_ms is None


@pytest.mark.parametrize("seconds", [2**63 - 1, 315_576_000_001])
def test_budget_beyond_what_a_duration_may_be_is_refused(seconds: int) -> None:
    """google.protobuf.Duration ends at 10,000 years; what lies beyond is damage, and could not be sent back."""
    error = refused(message(budget=pb.Budget(latency=Duration(seconds=seconds))))
    assert error.field == "budget.latency"


def test_long_budget_survives_the_way_back() -> None:
    """The longest valid Duration is a valid budget and can be encoded again."""
    parsed = parse(message(budget=pb.Budget(latency=Duration(seconds=315_576_000_000))))
    assert parsed.budget_ms is not None
    assert wire.duration(parsed.budget_ms).seconds == 315_576_000_000


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"routing": pb.Routing(strategy=99)}, "routing.strategy"),  # type: ignore[arg-type]
        ({"routing": pb.Routing(allowed=[1, 99])}, "routing.allowed[1]"),  # type: ignore[list-item]
        ({"budget": pb.Budget(overrun_policy=99)}, "budget.overrun_policy"),  # type: ignore[arg-type]
        ({"cache_control": 99}, "cache_control"),
    ],
)
def test_unknown_enum_values_are_refused(fields: dict[str, Any], field: str) -> None:
    """A value of a newer contract is not taken for the default: it may be the opposite of it."""
    error = refused(message(**fields))
    assert error.field == field
    assert "99 is not a known" in error.description


def test_auto_in_allowed_restricts_nothing() -> None:
    """AUTO among the allowed strategies is not a strategy of its own."""
    assert parse(message(routing=pb.Routing(allowed=["STRATEGY_AUTO"]))).routing.allowed == frozenset()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x1a\x05ab",  # a query of five bytes that ends after two
        b"\x1a\x02\xc3\x28",  # a query that is not UTF-8
        b"\x22\x06\x12\x04\xed\xa0\x80x",  # a document text with a lone surrogate in it
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    """Damaged bytes and bad UTF-8 are the caller's mistake, said in words."""
    with pytest.raises(InvalidFieldError, match=r"not a millirank\.v1\.RerankRequest") as caught:
        wire.parse_rerank(data, LIMITS)
    assert caught.value.field == "(message)"


def test_empty_bytes_lack_a_query() -> None:
    """An empty message is a message, of defaults: what it lacks is named."""
    with pytest.raises(InvalidFieldError) as caught:
        wire.parse_rerank(b"", LIMITS)
    assert caught.value.field == "query"


def test_unknown_fields_are_ignored() -> None:
    """A newer client's additional field does not make its request invalid."""
    data = message().SerializeToString() + b"\xa2\x06\x03new"  # field 100
    assert wire.parse_rerank(data, LIMITS).query == "q"


def test_explain_checks_the_same_things() -> None:
    """The request inside an ExplainRouteRequest is checked like any other."""
    with pytest.raises(InvalidFieldError) as caught:
        wire.parse_explain(pb.ExplainRouteRequest().SerializeToString(), LIMITS)
    assert caught.value.field == "query"
    explained = pb.ExplainRouteRequest(request=message(query="why"))
    assert wire.parse_explain(explained.SerializeToString(), LIMITS).query == "why"


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_name_a_field(data: bytes) -> None:
    """Whatever comes in: a request, or InvalidFieldError; nothing else is ever raised."""
    try:
        said = wire.parse_rerank(data, LIMITS).query
    except InvalidFieldError as error:
        said = f"{error.field}: {error.description}" if error.field and error.description else ""
    assert said.strip()


_names = st.text(max_size=20)
_finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    query=st.text(min_size=1, max_size=50).filter(lambda text: not text.isspace()),
    documents=st.lists(
        st.tuples(
            _names,
            st.text(min_size=1, max_size=30),
            st.dictionaries(st.text(min_size=1, max_size=8), _finite, max_size=3),
        ),
        max_size=5,
    ),
    names=st.tuples(_names, _names, _names),
    top_n=st.integers(0, 2**32 - 1),
    budget_ns=st.none() | st.integers(0, 10**15),
    min_score=st.none() | _finite,
)
def test_any_valid_message_parses(
    query: str,
    documents: list[tuple[str, str, dict[str, float]]],
    names: tuple[str, str, str],
    top_n: int,
    budget_ns: int | None,
    min_score: float | None,
) -> None:
    """Every message within the contract becomes a request with the same content."""
    sent = pb.RerankRequest(query=query, top_n=top_n, min_score=min_score)
    sent.corpus, sent.tenant, sent.instruction = names
    for identifier, text, signals in documents:
        sent.documents.add(id=identifier, text=text, signals=signals)
    if budget_ns is not None:
        sent.budget.latency.FromNanoseconds(budget_ns)
    parsed = parse(sent)
    assert (parsed.query, parsed.top_n, parsed.min_score) == (query, top_n, min_score)
    assert (parsed.corpus, parsed.tenant, parsed.instruction) == names
    assert [(each.id, each.text, dict(each.signals)) for each in parsed.candidates] == documents
    assert parsed.budget_ms == (None if budget_ns is None else pytest.approx(budget_ns / 1e6))
