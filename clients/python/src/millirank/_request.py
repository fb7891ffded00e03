"""The caller's arguments -> the bytes of a RerankRequest, or an error that names the argument and the fix.

The size limits that a sidecar's operator can change (documents, characters of the query) are left to the
sidecar. Checked here is what the contract fixes, what could not be encoded, and what would otherwise go
unnoticed as long as the sidecar is down.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, SupportsFloat, SupportsIndex, TypeVar

from millirank._decision import Strategy
from millirank._errors import InvalidRequestError
from millirank._ranking import Document
from millirank.v1 import rerank_service_pb2 as pb

T = TypeVar("T")

MAX_BUDGET_MS = 3_600_000.0
_MAX_NAME, _MAX_ID, _MAX_SIGNALS = 128, 512, 16  # fixed by the contract


@dataclass(frozen=True, slots=True)
class Extractors(Generic[T]):
    """How to read a candidate out of the caller's own object. None: the object is a `Document` or a str."""

    text: Callable[[T], str] | None = None
    id: Callable[[T], str] | None = None
    signals: Callable[[T], Mapping[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """Everything about a request but the query and the documents; the arguments of `Client.rerank`."""

    budget_ms: float
    corpus: str
    top_n: int
    strategy: Strategy | str
    reranker: str
    allowed: Sequence[Strategy | str]
    rerank_k: int
    instruction: str
    min_score: float | None
    max_cost_micro_usd: int | None
    tenant: str
    request_id: str
    use_cache: bool
    strict: bool


def candidates(documents: Iterable[T]) -> tuple[T, ...]:
    """The candidates in first-stage order, safe from later changes of the caller's list."""
    # These iterate too, but not over candidates in rank order.
    if isinstance(documents, str | bytes | Mapping | Set):
        raise InvalidRequestError(
            f"documents is a {type(documents).__name__}; pass a list of candidates, best first", "documents"
        )
    try:
        return tuple(documents)
    except TypeError as error:
        raise InvalidRequestError(
            f"documents is a {type(documents).__name__}; pass a list of candidates", "documents"
        ) from error


def check_budget_ms(budget_ms: SupportsFloat, name: str = "budget_ms") -> float:
    """The budget in ms as a float: finite, from 0 to an hour."""
    value = _number(budget_ms, name)
    if not 0 <= value <= MAX_BUDGET_MS:
        raise InvalidRequestError(f"{name} is {value:g}; pass milliseconds from 0 to {MAX_BUDGET_MS:g}", name)
    return value


def encode_request(query: str, documents: Sequence[T], extractors: Extractors[T], options: Options) -> bytes:
    """The encoded request, all but its latency budget: `encode_latency` appends that when the time left is
    known.
    """
    if not isinstance(query, str) or not query.strip():
        raise InvalidRequestError("query is empty or no str; pass the user's query", "query")
    message = pb.RerankRequest()
    _set_text(message, "query", query)
    _set_text(message, "instruction", options.instruction)
    for name in ("corpus", "tenant", "request_id"):
        _set_text(message, name, getattr(options, name), limit=_MAX_NAME)
    message.top_n = _count(options.top_n, "top_n")
    if options.min_score is not None:
        message.min_score = _number(options.min_score, "min_score")
    if not options.use_cache:
        message.cache_control = pb.CACHE_CONTROL_BYPASS
    if isinstance(options.allowed, str):
        raise InvalidRequestError("allowed is a str; pass a list of strategies", "allowed")
    routing = pb.Routing(
        strategy=_strategy(options.strategy, "strategy"),
        allowed=[_strategy(each, f"allowed[{i}]") for i, each in enumerate(options.allowed)],
        rerank_k=_count(options.rerank_k, "rerank_k"),
    )
    _set_text(routing, "reranker", options.reranker)
    message.routing.CopyFrom(routing)
    if options.max_cost_micro_usd is not None:
        message.budget.max_cost_micro_usd = _count(options.max_cost_micro_usd, "max_cost_micro_usd", bits=64)
    if options.strict:
        message.budget.overrun_policy = pb.OVERRUN_POLICY_FAIL
    for position, document in enumerate(documents):
        _add_document(message, position, document, extractors)
    return message.SerializeToString()


def encode_latency(latency_ms: float, deadline_slack_ms: float | None = None) -> bytes:
    """The budget's latency, and by how much the deadline is later, as a message of its own, to be appended to
    `encode_request`.

    Encoding a thousand documents takes several ms. So that those count, the budget is written last; joining
    two encodings of a message merges their fields (protobuf.dev/programming-guides/encoding, "Last One
    Wins").
    """
    message = pb.RerankRequest()
    message.budget.latency.FromNanoseconds(max(0, round(latency_ms * 1e6)))
    if deadline_slack_ms is not None:
        message.budget.deadline_slack.FromNanoseconds(round(deadline_slack_ms * 1e6))
    return message.SerializeToString()


def _add_document(message: pb.RerankRequest, position: int, document: T, extractors: Extractors[T]) -> None:
    text: object
    identifier: object = ""
    signals: object = None
    indexed_ref: object = None
    if isinstance(document, Document):
        identifier, text, signals = document.id, document.text, document.signals
        indexed_ref = document.indexed_ref
    elif isinstance(document, str):
        text = document
    elif extractors.text is None:
        where = f"documents[{position}]"
        raise InvalidRequestError(
            f"{where} is a {type(document).__name__}; pass text= (a callable that returns its text), or pass "
            "millirank.Document or str objects",
            where,
        )
    if extractors.text is not None:
        text = extractors.text(document)
    if extractors.id is not None:
        identifier = extractors.id(document)
    if extractors.signals is not None:
        signals = extractors.signals(document)

    # Attribute by attribute: three times as fast as documents.add(id=..., text=..., signals=...).
    added = message.documents.add()
    try:
        _set_text(added, "text", text)
        if identifier != "":
            _set_text(added, "id", identifier, limit=_MAX_ID)
        if signals:
            _set_signals(added, signals)
        if indexed_ref is not None:
            _set_indexed_ref(added, indexed_ref)
    except InvalidRequestError as error:
        # Which document it is, is put into words only here: this runs for every candidate, within the budget.
        where = f"documents[{position}]"
        raise InvalidRequestError(f"{where}.{error}", f"{where}.{error.field}") from error.__cause__


def _set_indexed_ref(added: pb.Document, indexed_ref: object) -> None:
    where = "indexed_ref"
    if not isinstance(indexed_ref, tuple) or len(indexed_ref) != 2:
        raise InvalidRequestError(f"{where} is no (collection, id); pass a tuple of two str", where)
    for name, value in zip(("collection", "id"), indexed_ref, strict=True):
        _set_text(added.indexed_ref, name, value, f"{where}.{name}", limit=_MAX_ID)
        if not value:
            raise InvalidRequestError(f"{where}.{name} is empty; say where the document lies", f"{where}.{name}")


def _set_signals(added: pb.Document, signals: object) -> None:
    where = "signals"
    if not isinstance(signals, Mapping):
        raise InvalidRequestError(f"{where} is a {type(signals).__name__}; pass a mapping of name to score", where)
    if len(signals) > _MAX_SIGNALS:
        raise InvalidRequestError(f"{where} has {len(signals)} entries; at most {_MAX_SIGNALS} are allowed", where)
    target = added.signals
    for name, value in signals.items():
        if not isinstance(name, str):
            raise InvalidRequestError(f"{where} has the key {name!r}; signal names are str", where)
        usual = type(value) is float and math.isfinite(value)
        try:
            target[name] = value if usual else _number(value, f"{where}[{name!r}]")
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"{where} has a name with a lone surrogate", where) from error


def _set_text(
    message: pb.RerankRequest | pb.Routing | pb.Document | pb.IndexedRef,
    attribute: str,
    value: object,
    where: str = "",
    *,
    limit: int | None = None,
) -> None:
    """Set it, or raise `InvalidRequestError` for ``where``, by default the attribute."""
    where = where or attribute
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where} is a {type(value).__name__}; it has to be a str", where)
    if limit is not None and len(value) > limit:
        raise InvalidRequestError(f"{where} has {len(value)} characters; at most {limit} are allowed", where)
    try:
        setattr(message, attribute, value)
    except UnicodeEncodeError as error:
        # The text itself stays out of the message: it may be private.
        raise InvalidRequestError(
            f"{where} has a lone surrogate at position {error.start} and can't be sent as UTF-8; "
            "clean it with .encode('utf-8', 'replace').decode()",
            where,
        ) from None


def _number(value: object, where: str) -> float:
    if isinstance(value, bool | str | bytes) or not isinstance(value, SupportsFloat):
        raise InvalidRequestError(f"{where} is a {type(value).__name__}; it has to be a number", where)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{where} can't be read as a float", where) from error
    if not math.isfinite(number):
        raise InvalidRequestError(f"{where} is {number}; it has to be finite", where)
    return number


def _count(value: object, where: str, *, bits: int = 32) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InvalidRequestError(f"{where} is a {type(value).__name__}; it has to be an int", where)
    number = operator.index(value)
    if not 0 <= number < 2**bits:
        raise InvalidRequestError(f"{where} is {number}; it has to be from 0 to 2**{bits} - 1", where)
    return number


def _strategy(value: Strategy | str, where: str) -> str:
    """The generated enum's name for it, which protobuf takes in place of the number."""
    try:
        name = Strategy(value).name
    except ValueError:
        known = ", ".join(strategy.value for strategy in Strategy)
        raise InvalidRequestError(f"{where} is {value!r}; choose one of {known}", where) from None
    return f"STRATEGY_{name}"
