"""What the stand-ins for remote models share: real HTTP/1.1 on loopback, and the ways in which a connection fails."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

FLOOD_MIB = 64


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came over the wire."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeHttp(ABC):
    """``async with`` it: it listens on a free port of the loopback. ``received`` are the requests so far."""

    request_type: ClassVar[type[Received]] = Received

    def __init__(self) -> None:
        self.received: list[Any] = []  # of `request_type`
        self.connections = 0
        self.disconnected = asyncio.Event()  # a client left before its answer was complete
        self.disconnects = 0  # how many did
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

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

    @abstractmethod
    async def answer(self, request: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer once; False if the connection is to be closed."""

    async def fail(self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Let the connection fail, if ``fault`` is one of those below; False for any other, with nothing done."""
        match fault:
            case "hang":
                await reader.read(1)  # returns when the client leaves
                self._left()
            case "drop":
                pass
            case "drip":
                writer.write(_head(200, 1_000_000))
                while not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.02)
                self._left()
            case "truncated":
                writer.write(_head(200, 1_000) + b'{"results": [')
                await writer.drain()
            case "flood":
                writer.write(_head(200, FLOOD_MIB << 20))
                for _ in range(FLOOD_MIB):
                    writer.write(b" " * (1 << 20))
                    await writer.drain()
            case _:
                return False
        return True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections += 1
        try:
            while (request := await self._read_request(reader)) is not None:
                self.received.append(request)
                if not await self.answer(request, reader, writer):
                    break
        except ConnectionError:
            self._left()
        except asyncio.CancelledError:
            pass  # by __aexit__ only; the streams of Python 3.11 would report a cancelled handler as an error
        finally:
            self._handlers.discard(handler)
            writer.close()

    def _left(self) -> None:
        self.disconnects += 1
        self.disconnected.set()

    async def _read_request(self, reader: asyncio.StreamReader) -> Received | None:
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
        return self.request_type(path=head[0].split(" ")[1], headers=headers, body=json.loads(body))


async def send(writer: asyncio.StreamWriter, status: int, body: object, extra: str = "") -> None:
    """An answer in JSON, or a text as it is; ``extra`` are further header lines."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    writer.write(_head(status, len(data), extra) + data)
    await writer.drain()


def _head(status: int, length: int, extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{extra}\r\n"
    ).encode()
