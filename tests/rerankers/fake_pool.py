"""A stand-in for a rerank endpoint: real HTTP/1.1 on loopback, no model behind it.

What it cannot show: how a real server reads these requests; test_remote_infinity does. What it can: every way in
which the wire and the answer can go wrong, and what exactly was asked. It scores by words in common.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

from tests.helpers import overlap
from tests.rerankers.fake_http import FakeHttp, Received, send


class Fault(StrEnum):
    """How the next answers go wrong."""

    NONE = "none"
    HANG = "hang"  # reads the request, never answers
    DRIP = "drip"  # answers one byte every 20 ms, for as long as anybody listens
    DROP = "drop"  # closes the connection without a word
    TRUNCATED = "truncated"  # closes it in the middle of the body
    FLOOD = "flood"  # a body of 64 MiB
    STATUS = "status"  # `FakePool.status`, with an error body that repeats the request
    REDIRECT = "redirect"  # 307 to another path of this server
    COMPRESSED = "compressed"  # says gzip, though nobody asked for it
    NOT_JSON = "not_json"
    NESTED = "nested"  # 100,000 opening brackets
    OTHER_SHAPE = "other_shape"  # valid JSON of another API
    TOO_FEW = "too_few"
    SURPLUS = "surplus"
    TWICE = "twice"  # one index two times, another one never
    OUT_OF_RANGE = "out_of_range"
    NEGATIVE_INDEX = "negative_index"
    TEXT_INDEX = "text_index"
    BOOLEAN_INDEX = "boolean_index"
    NO_SCORE = "no_score"
    NULL = "null"
    TEXT = "text"
    BOOLEAN = "boolean"
    NOT_A_NUMBER = "not_a_number"
    INFINITE = "infinite"
    HUGE = "huge"  # an integer that no float holds


class FakePool(FakeHttp):
    """``async with FakePool() as pool``; set `fault`, `status` or `delay_s` at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.fault = Fault.NONE
        self.status = 503
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"{self.origin}/rerank"

    async def answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer once; False if the connection is to be closed."""
        await asyncio.sleep(self.delay_s)
        fault = self.fault
        if request.path != "/rerank":
            await send(writer, 404, {"error": request.body})
        elif await self.fail(fault, reader, writer):
            return False
        elif fault is Fault.STATUS:
            # What real gateways do: they repeat the input, and ask to be called again at once.
            await send(writer, self.status, {"error": f"cannot process {request.body}"}, "retry-after: 0\r\n")
        elif fault is Fault.REDIRECT:
            await send(writer, 307, {}, "location: /elsewhere\r\n")
        elif fault is Fault.COMPRESSED:
            await send(writer, 200, "\x1f\x8b not what gzip makes", "content-encoding: gzip\r\n")
        elif fault is Fault.NOT_JSON:
            await send(writer, 200, f"<html>{request.body}</html>")
        elif fault is Fault.NESTED:
            await send(writer, 200, "[" * 100_000)
        else:
            await send(writer, 200, _results(request.body, fault))
        return True


def _results(body: dict[str, Any], fault: Fault) -> dict[str, Any] | list[dict[str, Any]]:
    """The answer in the shape of the question, best first, spoilt as ``fault`` has it."""
    tei = "texts" in body
    texts = body["texts"] if tei else body["documents"]
    field = "score" if tei else "relevance_score"
    results = [{"index": index, field: overlap(body["query"], text)} for index, text in enumerate(texts)]
    results.sort(key=lambda result: -result[field])
    first, last = results[0], results[-1]
    wrong_scores = {
        Fault.NULL: None,
        Fault.TEXT: "0.5",
        Fault.BOOLEAN: True,
        Fault.NOT_A_NUMBER: float("nan"),
        Fault.INFINITE: float("inf"),
        Fault.HUGE: 10**400,
    }
    wrong_indexes: dict[Fault, object] = {
        Fault.TWICE: first["index"],
        Fault.OUT_OF_RANGE: len(texts),
        Fault.NEGATIVE_INDEX: -1,
        Fault.TEXT_INDEX: str(last["index"]),
        Fault.BOOLEAN_INDEX: bool(last["index"]),
    }
    if fault in wrong_scores:
        last[field] = wrong_scores[fault]
    if fault in wrong_indexes:
        last["index"] = wrong_indexes[fault]
    if fault is Fault.NO_SCORE:
        del last[field]
    if fault is Fault.TOO_FEW:
        del results[-1]
    if fault is Fault.SURPLUS:
        results.append({"index": len(texts), field: 0.5, "document": {"text": texts[0]}})
    if fault is Fault.OTHER_SHAPE:
        tei = not tei
    return results if tei else {"results": results, "id": "r-1"}
