"""The rerank endpoint that other tools know, as JSON: what Cohere (v2) and Jina are asked and what they answer.

Asked: ``{model, query, documents, top_n, return_documents, max_tokens_per_doc}``, documents being strings or objects
with a ``text``. Answered: ``{id, model, results: [{index, relevance_score, document?}], usage, meta}``; both clients
ignore what the other's answer has more.

``relevance_score`` is what such tools expect: within 0 and 1 and never rising down the list. It is the logistic
function of our fused score (a sum of z-scores), and comparable within one answer only. What nobody scored stands
behind, or, in first-stage order, alone: there the score only says the rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from millirank.v1 import rerank_service_pb2 as pb

from sidecar.errors import InvalidFieldError
from sidecar.messages import Answer, Request
from sidecar.wire import duration

BUDGET_HEADER = "x-millirank-budget-ms"
CORPUS_HEADER = "x-millirank-corpus"
TENANT_HEADER = "x-millirank-tenant"
_NUMBER_KEYS = ("top_n", "max_tokens_per_doc")
# What the two services' clients may send. Others are refused: a typo must not silently mean the default.
_KEYS = frozenset({"model", "query", "documents", "return_documents", "priority", *_NUMBER_KEYS})
_MAX_BUDGET_MS = 3_600_000.0


def read_request(
    body: bytes, headers: Mapping[str, str], rerankers: Collection[str], most: int
) -> tuple[pb.RerankRequest, bool]:
    """The request as the contract has it, to be checked like any other; and whether the documents are wanted back.

    A ``model`` that names a configured reranker forces it; any other is some service's own name, and the router
    chooses. ``most`` documents are taken. Raises InvalidFieldError naming the JSON key or the header.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidFieldError("(body)", "is not JSON; send an object with 'query' and 'documents'") from None
    if not isinstance(asked, dict):
        raise InvalidFieldError("(body)", "is not a JSON object; send one with 'query' and 'documents'")
    if unknown := sorted(set(asked) - _KEYS):
        name = ascii(unknown[0])[1:-1][:64] or "(a key without a name)"
        raise InvalidFieldError(name, f"is not known here; known are {', '.join(sorted(_KEYS))}")
    texts = _texts(asked.get("documents"), most)
    query, model = _string("query", asked.get("query")), _string("model", asked.get("model", ""))
    numbers = {name: _whole(name, asked.get(name)) for name in _NUMBER_KEYS}
    message = pb.RerankRequest(
        top_n=numbers["top_n"],
        routing=pb.Routing(reranker=model if model in rerankers else ""),
    )
    _set_text(message, "query", query, "query")
    for name, header in (("corpus", CORPUS_HEADER), ("tenant", TENANT_HEADER)):
        _set_text(message, name, headers.get(header, ""), header)
    for position, text in enumerate(texts):
        _set_text(message.documents.add(), "text", text, f"documents[{position}]")
    if (budget_ms := _budget_ms(headers.get(BUDGET_HEADER))) is not None:
        message.budget.latency.CopyFrom(duration(budget_ms))
    return message, asked.get("return_documents") is True


def write_answer(answer: Answer, request: Request, return_documents: bool) -> bytes:
    """The answer as JSON."""
    outcome = answer.outcome
    relevance = relevance_scores([item.score for item in outcome.ranked])
    results = []
    for item, score in zip(outcome.ranked, relevance, strict=True):
        result: dict[str, Any] = {"index": item.position, "relevance_score": score}
        if return_documents:
            result["document"] = {"text": request.candidates[item.position].text}
        results.append(result)
    decision = answer.explanation.decision
    body = {
        "id": answer.request_id,
        "model": decision.reranker or decision.strategy.value,
        "object": "list",
        "results": results,
        "usage": {"total_tokens": outcome.usage.tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 0}},
    }
    return json.dumps(body, ensure_ascii=False).encode()


def answer_headers(answer: Answer) -> dict[str, str]:
    """What the JSON of those services has no place for: never silent about it."""
    decision = answer.explanation.decision
    headers = {
        "X-Millirank-Request-Id": answer.request_id,
        "X-Millirank-Strategy": decision.strategy.value,
        "X-Millirank-Reason": decision.reason.value,
        "X-Millirank-Completeness": answer.outcome.completeness.value,
        "X-Millirank-Scored": f"{answer.outcome.scored_k}/{decision.planned_k}",
    }
    if answer.outcome.degradations:
        reasons = [degradation.reason.value for degradation in answer.outcome.degradations]
        headers["X-Millirank-Degradations"] = ",".join(reasons)
    # A request id is the caller's own words, and no header may be split by them.
    return {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}


def relevance_scores(fused: Sequence[float | None]) -> list[float]:
    """One number in [0, 1] for each result, best first, never rising; None stands for what was not scored."""
    scores: list[float] = []
    ceiling = 1.0
    for place, score in enumerate(fused):
        own = 1.0 / (place + 1) if score is None else 0.5 * (1.0 + math.tanh(score / 2.0))
        ceiling = min(ceiling, own)
        scores.append(ceiling)
    return scores


def _texts(documents: object, most: int) -> list[str]:
    if not isinstance(documents, list):
        raise InvalidFieldError("documents", "must be a list of strings, or of objects with a 'text'")
    if len(documents) > most:  # here too: a million of them would be a second's work before anybody else counts them
        raise InvalidFieldError("documents", f"has {len(documents)} entries; at most {most}: send the best ones")
    texts = []
    for position, document in enumerate(documents):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            raise InvalidFieldError(f"documents[{position}]", "must be a string, or an object with a 'text'")
        texts.append(text)
    return texts


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidFieldError(name, "must be a string")
    return value


def _whole(name: str, value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 2**31:
        raise InvalidFieldError(name, "must be a whole number, not negative")
    return value


def _budget_ms(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        budget_ms = float(text)
    except ValueError:
        budget_ms = math.nan
    if not 0.0 <= budget_ms <= _MAX_BUDGET_MS:
        raise InvalidFieldError(BUDGET_HEADER, f"must be milliseconds from 0 to {_MAX_BUDGET_MS:.0f}")
    return budget_ms


def _set_text(message: pb.RerankRequest | pb.Document, name: str, text: str, field: str) -> None:
    try:
        setattr(message, name, text)
    except (ValueError, UnicodeEncodeError):  # JSON can spell half of a surrogate pair
        raise InvalidFieldError(field, "is not valid Unicode text") from None
