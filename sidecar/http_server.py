"""A rerank endpoint over HTTP, for tools that know Cohere's or Jina's: same pipeline, same limits, same honesty.

POST /v2/rerank, /v1/rerank or /rerank; the budget is a header. GET /health. Off unless ``listen.http`` is set.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Collection
from pathlib import Path

import grpc
from aiohttp import hdrs, web

from sidecar import wire
from sidecar.errors import (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    BodyTooLargeError,
    BodyTooSlowError,
    BusyError,
    Failure,
    InvalidFieldError,
    UnauthenticatedError,
)
from sidecar.http_listeners import open_site
from sidecar.http_shapes import answer_headers, read_request, write_answer
from sidecar.linger import linger
from sidecar.pipeline import Pipeline
from sidecar.request_frame import Arrival, RequestFrame, UnderWay
from sidecar.security import carries, read_token, warn_of_plaintext
from sidecar.settings import Limits, Listen
from sidecar.tls import http_context

_log = logging.getLogger("millirank.http")

_PATHS = ("/v2/rerank", "/v1/rerank", "/rerank")
# Whoever sends a body for longer than this does not wait for a ranking.
_BODY_S = 30.0
# google.rpc.Code as HTTP has it (google/rpc/code.proto says which), but for what HTTP knows better.
_STATUS_OF_REASON = {BODY_TOO_LARGE: 413, BODY_TOO_SLOW: 408}
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class HttpServer:
    """The HTTP listener of one sidecar."""

    def __init__(
        self,
        pipeline: Pipeline,
        rerankers: Collection[str],
        listen: Listen,
        limits: Limits,
        frame: RequestFrame,
        drain_s: float,
    ) -> None:
        """``drain_s`` is how long accepted requests may take after `stop`.

        Raises SecurityError for a token or certificates that can't be used.
        """
        self._pipeline = pipeline
        self._rerankers = rerankers
        self._listen = listen
        self._limits = limits
        self._frame = frame
        self._token = read_token(Path(listen.token_file)) if listen.token_file else b""
        self._tls = http_context(listen.tls)
        self._drain_s = drain_s
        self._under_way = 0
        app = web.Application()
        for path in _PATHS:
            app.router.add_post(path, self._rerank)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # when the caller leaves: nothing is computed for nobody
            auto_decompress=False,  # nothing unfolds here
            shutdown_timeout=drain_s,
        )

    async def start(self) -> str:
        """Opens the listener and returns its address. Raises ListenError."""
        address = await open_site(self._runner, "listen.http", self._listen.http, self._tls)
        warn_of_plaintext(_log, "listen.http", address, tls=self._tls is not None)
        _log.info("serving HTTP", extra={"address": address})
        return address

    async def stop(self, linger_s: float) -> None:
        """Goes on accepting for a moment (see `linger`), answers what was accepted, and closes."""
        await linger(linger_s, linger_s + self._drain_s / 2)
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="NOT_SERVING\n", status=503) if self._pipeline.draining else web.Response(text="OK\n")

    async def _rerank(self, asked: web.Request) -> web.Response:
        arrived = time.monotonic()

        async def handle(under_way: UnderWay) -> web.Response:
            self._check(asked)
            return await self._answer(asked, arrived, under_way)

        arrival = Arrival(
            span_name=f"POST {asked.path}",
            method=asked.path,
            headers=asked.headers,
            attributes={"http.request.method": "POST", "url.path": asked.path},
            status_attribute="http.response.status_code",
            status_of=_status_of,
        )
        self._under_way += 1
        try:
            result = await self._frame.run(arrival, handle)
        finally:
            self._under_way -= 1
        return _refusal(result) if isinstance(result, Failure) else result

    def _check(self, asked: web.Request) -> None:
        """Raises UnauthenticatedError, BusyError or InvalidFieldError before anything of the body is read."""
        if self._token and not carries(asked.headers.get(hdrs.AUTHORIZATION, ""), self._token):
            raise UnauthenticatedError
        if self._under_way > self._limits.concurrent_requests:
            raise BusyError(self._limits.concurrent_requests)
        if asked.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise InvalidFieldError("content-encoding", "is not taken here; send the body as it is")

    async def _answer(self, asked: web.Request, arrived: float, under_way: UnderWay) -> web.Response:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        body = await self._body(asked, under_way)
        message, return_documents = read_request(body, headers, self._rerankers, self._limits.documents)
        request = wire.parse_rerank(message.SerializeToString(), self._limits)
        under_way.request_id = request.request_id
        answer = await self._pipeline.rerank(request, None, arrived)
        under_way.answer = answer
        return web.Response(
            body=write_answer(answer, request, return_documents),
            content_type="application/json",
            headers=answer_headers(answer),
        )

    async def _body(self, asked: web.Request, under_way: UnderWay) -> bytes:
        """Raises BodyTooLargeError, BodyTooSlowError or MemoryBoundError, each as soon as it is clear."""
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                while part := await asked.content.readany():
                    under_way.hold(len(part))
                    body += part
                    if len(body) > self._limits.wire_bytes:
                        raise BodyTooLargeError(self._limits.wire_bytes)
        except TimeoutError:
            raise BodyTooSlowError(_BODY_S) from None
        return bytes(body)


def _status_of(failure: Failure | None) -> int:
    if failure is None:
        return 200
    return _STATUS_OF_REASON.get(failure.reason) or _STATUS.get(failure.code, 500)


def _refusal(failure: Failure) -> web.Response:
    body = {"message": failure.message, "id": failure.request_id}
    return web.Response(body=json.dumps(body).encode(), status=_status_of(failure), content_type="application/json")
