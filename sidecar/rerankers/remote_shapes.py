"""What rerank endpoints are asked and what they answer: three shapes, pure functions.

- cohere: ``{model, query, documents, top_n}`` -> ``{results: [{index, relevance_score}]}``. Also spoken by vLLM,
  infinity, LiteLLM and others.
- jina: the same, and ``return_documents: false``, since Jina would send the documents back. (Cohere's second API
  version has no such field.)
- tei (Text Embeddings Inference): ``{query, texts, raw_scores, truncate}`` -> ``[{index, score}]``. Without
  ``truncate`` it refuses a document that is longer than its model reads.

An answer is only used if it is complete: every document has exactly one finite score (DESIGN section 6, invariant 4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

Api: TypeAlias = Literal["cohere", "jina", "tei"]
APIS: tuple[Api, ...] = get_args(Api)


def request_body(api: Api, model: str, query: str, documents: Sequence[str]) -> bytes:
    """The request as JSON. ``model`` '' is left out, for endpoints that serve a single one."""
    body: dict[str, Any] = {"model": model} if model else {}
    body["query"] = query
    if api == "tei":
        body |= {"texts": list(documents), "raw_scores": False, "truncate": True}
    else:
        body |= {"documents": list(documents), "top_n": len(documents)}
    if api == "jina":
        body["return_documents"] = False
    return json.dumps(body).encode()


def read_scores(api: Api, body: bytes, count: int) -> tuple[float, ...] | str:
    """``count`` scores in the order of the documents that were sent, or what is wrong with the answer.

    What is wrong never quotes the answer, which may repeat documents.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    if api != "tei":
        answer = answer.get("results") if isinstance(answer, dict) else None
    score_field = "score" if api == "tei" else "relevance_score"
    if not isinstance(answer, list):
        wanted = "a list" if api == "tei" else "an object with a list of results"
        return f"the answer is not {wanted}; is `api: {api}` what this endpoint speaks?"
    if len(answer) != count:
        return f"{len(answer)} results for {count} documents"
    scores: list[float | None] = [None] * count
    for result in answer:
        index = result.get("index") if isinstance(result, dict) else None
        # bool is an int in Python, and JSON's true is no index.
        if type(index) is not int or not 0 <= index < count or scores[index] is not None:
            return f"the results' indexes are not each of 0 to {count - 1} once"
        scores[index] = _finite(result.get(score_field))
    known = tuple(score for score in scores if score is not None)
    if len(known) < count:
        return f"{count - len(known)} of {count} results have no finite {score_field}"
    return known


def _finite(value: object) -> float | None:
    """A JSON number as a float; None if it is none, or too large for one. (Python reads NaN and Infinity too.)"""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # narrowed above, which mypy can't see
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
