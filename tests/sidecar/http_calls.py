"""A real HTTP listener around a test's parts, and calls to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from sidecar.http_server import HttpServer
from sidecar.settings import Listen
from tests.helpers import Rig

QUERY = "red green"
TEXTS = ["blue", "red green", "red"]
BUDGET = {"X-Millirank-Budget-Ms": "10000"}


@contextlib.asynccontextmanager
async def served(parts: Rig, drain_s: float = 1.0, **listen: Any) -> AsyncIterator[str]:
    """The base URL of the listener around a test's parts. It drains when the test leaves, for at most ``drain_s``."""
    server = HttpServer(
        parts.pipeline,
        ("scripted",),
        Listen(**{"http": "127.0.0.1:0", **listen}),
        parts.settings.limits,
        parts.frame,
        drain_s=drain_s,
    )
    address = await server.start()
    try:
        yield f"{'https' if 'tls' in listen else 'http'}://{address}"
    finally:
        await server.stop(0.0)


async def post(url: str, body: object, path: str = "/v2/rerank", **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, decoded JSON and headers."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.post(url + path, data=data, headers=headers) as response:
        return response.status, await response.json(), dict(response.headers)


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "rerank-v3.5", "query": QUERY, "documents": TEXTS, **fields}


async def talk(url: str, sent: bytes) -> str:
    """What comes back for these bytes on a connection of their own, until the listener closes it."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        return (await reader.read()).decode()
    finally:
        writer.close()


def head(length: int, *lines: str) -> bytes:
    """The beginning of a request whose body has so many bytes; the connection ends with it."""
    fields = ("Host: x", f"Content-Length: {length}", "Connection: close", *lines)
    return "\r\n".join(("POST /rerank HTTP/1.1", *fields, "", "")).encode("latin-1")
