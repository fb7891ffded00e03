"""A stand-in for a rerank endpoint: real HTTP/1.1 on loopback, no model behind it.

What it cannot show: how a real server reads these requests; test_remote_infinity does. What it can: every way in
which the wire and the answer can go wrong, and what exactly was asked. It scores by words in common.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from tests.helpers import overlap


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


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came over the wire."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakePool:
    """``async with FakePool() as pool``; set `fault`, `status` or `delay_s` at any time."""

    def __init__(self) -> None:
        self.fault = Fault.NONE
        self.status = 503
        self.delay_s = 0.0
        self.received: list[Received] = []
        self.connections = 0
        self.disconnected = asyncio.Event()  # a client left before its answer was complete
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/rerank"

    async def __aenter__(self) -> Self:
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
            self.disconnected.set()
        except asyncio.CancelledError:
            pass  # by __aexit__ only; the streams of Python 3.11 would report a cancelled handler as an error
        finally:
            self._handlers.discard(handler)
            writer.close()

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer once; False if the connection is to be closed."""
        await asyncio.sleep(self.delay_s)
        fault = self.fault
        if request.path != "/rerank":
            await _send(writer, 404, {"error": request.body})
        elif fault is Fault.HANG:
            await reader.read(1)  # returns when the client leaves
            self.disconnected.set()
            return False
        elif fault is Fault.DROP:
            return False
        elif fault is Fault.DRIP:
            writer.write(_head(200, 1_000_000))
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
            self.disconnected.set()
            return False
        elif fault is Fault.TRUNCATED:
            writer.write(_head(200, 1_000) + b'{"results": [')
            await writer.drain()
            return False
        elif fault is Fault.FLOOD:
            writer.write(_head(200, 64 << 20))
            for _ in range(64):
                writer.write(b" " * (1 << 20))
                await writer.drain()
        elif fault is Fault.STATUS:
            # What real gateways do: they repeat the input, and ask to be called again at once.
            await _send(writer, self.status, {"error": f"cannot process {request.body}"}, "retry-after: 0\r\n")
        elif fault is Fault.REDIRECT:
            await _send(writer, 307, {}, "location: /elsewhere\r\n")
        elif fault is Fault.COMPRESSED:
            await _send(writer, 200, "\x1f\x8b not what gzip makes", "content-encoding: gzip\r\n")
        elif fault is Fault.NOT_JSON:
            await _send(writer, 200, f"<html>{request.body}</html>")
        elif fault is Fault.NESTED:
            await _send(writer, 200, "[" * 100_000)
        else:
            await _send(writer, 200, _results(request.body, fault))
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


async def _send(writer: asyncio.StreamWriter, status: int, body: object, extra: str = "") -> None:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    writer.write(_head(status, len(data), extra) + data)
    await writer.drain()
