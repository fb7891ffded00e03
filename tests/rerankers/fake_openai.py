"""A stand-in for an OpenAI-compatible server: real HTTP/1.1 on loopback, no model behind it.

What it cannot show: how well a real model grades, how a real server tokenises, compiles schemas or queues.
What it can: every way in which the wire and the answer can go wrong, and what exactly was asked.

It grades by counting how many different words of the query a passage contains, so that a test can tell
whether scores came back to the candidates that they belong to.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType


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


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came over the wire."""

    path: str
    headers: dict[str, str]
    body: dict[str, object]

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


class FakeOpenAI:
    """``async with FakeOpenAI() as server``; set `fault`, `status`, `delay_s` or `usage` at any time.

    ``faults`` and ``delays_s`` hold what differs for prompts that show a certain passage.
    """

    def __init__(self) -> None:
        self.fault = Fault.NONE
        self.status = 503
        self.delay_s = 0.0
        self.faults: dict[str, Fault] = {}
        self.delays_s: dict[str, float] = {}
        self.usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        self.received: list[Received] = []
        self.connections = 0
        self.disconnected = asyncio.Event()  # a client left before its answer was complete
        self.disconnects = 0  # how many did
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> FakeOpenAI:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                self.received.append(request)
                if not await self._answer(request, reader, writer):
                    break
        except ConnectionError:
            self._left()
        except asyncio.CancelledError:
            pass  # by __aexit__ only; the streams of Python 3.11 would report a cancelled handler as an error
        finally:
            self._handlers.discard(handler)
            writer.close()

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer once; False if the connection is to be closed."""
        shown = request.passages.values()
        fault = next((own for passage, own in self.faults.items() if passage in shown), self.fault)
        await asyncio.sleep(next((own for passage, own in self.delays_s.items() if passage in shown), self.delay_s))
        if request.path != "/v1/chat/completions":
            await _send(writer, 404, {"error": {"message": request.user}})
        elif fault is Fault.HANG:
            await reader.read(1)  # returns when the client leaves
            self._left()
            return False
        elif fault is Fault.DROP:
            return False
        elif fault is Fault.DRIP:
            writer.write(_head(200, 1_000_000))
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
            self._left()
            return False
        elif fault is Fault.TRUNCATED:
            writer.write(_head(200, 1_000) + b'{"choices": [')
            await writer.drain()
            return False
        elif fault is Fault.FLOOD:
            writer.write(_head(200, 64 << 20))
            for _ in range(64):
                writer.write(b" " * (1 << 20))
                await writer.drain()
        elif fault is Fault.STATUS:
            # What real gateways do: they repeat the input, and ask to be called again at once.
            error = {"error": {"message": f"cannot process: {request.user}", "type": request.user, "code": None}}
            await _send(writer, self.status, error, "retry-after-ms: 1\r\nx-should-retry: true\r\n")
        elif fault is Fault.REDIRECT:
            await _send(writer, 307, {}, "location: /v1/elsewhere\r\n")
        elif fault is Fault.NOT_JSON_BODY:
            await _send(writer, 200, f"<html>{request.user}</html>")
        else:
            await _send(writer, 200, self._completion(request, fault))
        return True

    def grades(self, request: Received) -> dict[str, object]:
        """The score of each label: what an honest model would answer."""
        return {name: grade(str(request.message["query"]), text) for name, text in request.passages.items()}

    def _left(self) -> None:
        self.disconnects += 1
        self.disconnected.set()

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


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    """The next request of a connection; None when the client has closed it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {}
    for line in head[1:]:
        if line:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers["content-length"]))
    return Received(path=head[0].split(" ")[1], headers=headers, body=json.loads(body))


def _head(status: int, length: int, extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{extra}\r\n"
    ).encode()


async def _send(writer: asyncio.StreamWriter, status: int, body: dict[str, object] | str, extra: str = "") -> None:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    writer.write(_head(status, len(data), extra) + data)
    await writer.drain()
