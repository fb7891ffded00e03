"""A stand-in for an OpenAI-compatible server: real HTTP/1.1 on loopback, no model behind it.

What it cannot show: how well a real model grades, how a real server tokenises, compiles schemas or queues.
What it can: every way in which the wire and the answer can go wrong, and what exactly was asked.

It grades by counting how many different words of the query a passage contains, so that a test can tell
whether scores came back to the candidates that they belong to.
"""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum

from tests.rerankers import fake_http
from tests.rerankers.fake_http import FakeHttp, send


class Fault(StrEnum):
    """How the next answers go wrong."""

    NONE = "none"
    HANG = "hang"  # reads the request, never answers
    DRIP = "drip"  # answers one byte every 20 ms, for as long as anybody listens
    DROP = "drop"  # closes the connection without a word
    TRUNCATED = "truncated"  # closes it in the middle of the body
    FLOOD = "flood"  # a body of 64 MiB
    STATUS = "status"  # `FakeOpenAI.status`, with an error body that repeats the prompt
    REDIRECT = "redirect"  # 307 to another path of this server
    NOT_JSON_BODY = "not_json_body"
    NOT_JSON_CONTENT = "not_json_content"
    NO_CHOICES = "no_choices"
    NO_CONTENT = "no_content"
    REFUSAL = "refusal"
    CUT_OFF = "cut_off"
    NESTED = "nested"  # 100,000 opening brackets
    TOO_FEW = "too_few"
    SURPLUS = "surplus"
    TWICE = "twice"  # one label two times
    ABOVE_RANGE = "above_range"
    BELOW_RANGE = "below_range"
    FRACTION = "fraction"
    BOOLEAN = "boolean"
    TEXT = "text"
    NOT_A_NUMBER = "not_a_number"
    LIST = "list"
    NO_USAGE = "no_usage"
    ABSURD_USAGE = "absurd_usage"


class Received(fake_http.Received):
    """One request of a chat completion."""

    __slots__ = ()

    @property
    def system(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def user(self) -> str:
        return self.body["messages"][1]["content"]

    @property
    def message(self) -> dict[str, object]:
        return json.loads(self.user)

    @property
    def passages(self) -> dict[str, str]:
        return self.message["passages"]

    @property
    def schema(self) -> dict[str, object]:
        return self.body["response_format"]["json_schema"]["schema"]


class FakeOpenAI(FakeHttp):
    """``async with FakeOpenAI() as server``; set `fault`, `status`, `delay_s` or `usage` at any time.

    ``faults`` and ``delays_s`` hold what differs for prompts that show a certain passage.
    """

    request_type = Received

    def __init__(self) -> None:
        super().__init__()
        self.fault = Fault.NONE
        self.status = 503
        self.delay_s = 0.0
        self.faults: dict[str, Fault] = {}
        self.delays_s: dict[str, float] = {}
        self.usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    async def answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer once; False if the connection is to be closed."""
        shown = request.passages.values()
        fault = next((own for passage, own in self.faults.items() if passage in shown), self.fault)
        await asyncio.sleep(next((own for passage, own in self.delays_s.items() if passage in shown), self.delay_s))
        if request.path != "/v1/chat/completions":
            await send(writer, 404, {"error": {"message": request.user}})
        elif await self.fail(fault, reader, writer):
            return False
        elif fault is Fault.STATUS:
            # What real gateways do: they repeat the input, and ask to be called again at once.
            error = {"error": {"message": f"cannot process: {request.user}", "type": request.user, "code": None}}
            await send(writer, self.status, error, "retry-after-ms: 1\r\nx-should-retry: true\r\n")
        elif fault is Fault.REDIRECT:
            await send(writer, 307, {}, "location: /v1/elsewhere\r\n")
        elif fault is Fault.NOT_JSON_BODY:
            await send(writer, 200, f"<html>{request.user}</html>")
        else:
            await send(writer, 200, self._completion(request, fault))
        return True

    def grades(self, request: Received) -> dict[str, object]:
        """The score of each label: what an honest model would answer."""
        return {name: grade(str(request.message["query"]), text) for name, text in request.passages.items()}

    def _completion(self, request: Received, fault: Fault) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": _content(request, self.grades(request), fault)}
        if fault is Fault.NO_CONTENT:
            message["content"] = None
        if fault is Fault.REFUSAL:
            message |= {"content": None, "refusal": f"I will not grade {request.user}"}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "length" if fault is Fault.CUT_OFF else "stop",
        }
        completion: dict[str, object] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": request.body["model"],
            "choices": [] if fault is Fault.NO_CHOICES else [choice],
        }
        if fault is Fault.ABSURD_USAGE:
            completion["usage"] = {"prompt_tokens": 10**30, "completion_tokens": -1}
        elif fault is not Fault.NO_USAGE:
            completion["usage"] = self.usage
        return completion


def grade(query: str, passage: str) -> int:
    """How many different words of the query the passage contains, at most 10."""
    return min(10, len(set(query.lower().split()) & set(passage.lower().split())))


def _content(request: Received, scores: dict[str, object], fault: Fault) -> str:
    """The answer that holds ``scores``, spoilt as ``fault`` has it."""
    first = next(iter(scores))
    if fault is Fault.TOO_FEW:
        del scores[first]
    wrong = {
        Fault.ABOVE_RANGE: 11,
        Fault.BELOW_RANGE: -1,
        Fault.FRACTION: 7.5,
        Fault.BOOLEAN: True,
        Fault.TEXT: "7",
        Fault.NOT_A_NUMBER: float("nan"),
    }
    if fault in wrong:
        scores[first] = wrong[fault]
    if fault is Fault.SURPLUS:
        scores[request.passages[first]] = 10  # a key made of document text
    content = json.dumps(scores)
    if fault is Fault.TWICE:
        content = content[:-1] + f', "{first}": 10}}'
    if fault is Fault.LIST:
        content = json.dumps(list(scores.values()))
    if fault is Fault.NOT_JSON_CONTENT:
        content = f"Sure! Here are the scores for {request.user}: {content}"
    if fault is Fault.NESTED:
        content = "[" * 100_000
    if fault is Fault.CUT_OFF:
        content = content[: len(content) // 2]
    return content
