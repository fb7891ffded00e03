"""A rerank endpoint over HTTP, for tools that know Cohere's or Jina's: same pipeline, same limits, same honesty.

POST /v2/rerank, /v1/rerank or /rerank; the budget is a header. GET /health. Off unless ``listen.http`` is set.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Collection
from pathlib import Path

import grpc
from aiohttp import web
from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Tracer

from sidecar import wire
from sidecar.errors import BusyError, UnauthenticatedError
from sidecar.failures import report_failure
from sidecar.http_listeners import open_site
from sidecar.http_shapes import answer_headers, read_request, write_answer
from sidecar.listeners import ListenError
from sidecar.messages import Answer, Request, new_id
from sidecar.metrics import Metrics
from sidecar.pipeline import Pipeline
from sidecar.security import carries, read_token
from sidecar.settings import Limits, Listen
from sidecar.spans import describe

_log = logging.getLogger("millirank.http")

_PATHS = ("/v2/rerank", "/v1/rerank", "/rerank")
# google.rpc.Code as HTTP has it (google/rpc/code.proto says which).
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
        tracer: Tracer,
        metrics: Metrics,
    ) -> None:
        """Raises SecurityError for a token that can't be used, ListenError for certificates."""
        self._pipeline = pipeline
        self._rerankers = rerankers
        self._listen = listen
        self._limits = limits
        self._tracer = tracer
        self._metrics = metrics
        self._token = read_token(Path(listen.token_file)) if listen.token_file else b""
        self._tls = _tls(listen)
        self._under_way = 0
        app = web.Application(client_max_size=limits.wire_bytes)
        for path in _PATHS:
            app.router.add_post(path, self._rerank)
        app.router.add_get("/health", self._health)
        # Cancelled when the caller leaves, so that nothing is computed for nobody.
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, handler_cancellation=True)

    async def start(self) -> str:
        """Opens the listener and returns its address. Raises ListenError."""
        address = await open_site(self._runner, "listen.http", self._listen.http, self._tls)
        _log.info("serving HTTP", extra={"address": address})
        return address

    async def stop(self) -> None:
        """Answers what was accepted, and closes."""
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="NOT_SERVING\n", status=503) if self._pipeline.draining else web.Response(text="OK\n")

    async def _rerank(self, asked: web.Request) -> web.Response:
        arrived = time.monotonic()
        with self._tracer.start_as_current_span(
            f"POST {asked.path}",
            context=propagate.extract(asked.headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "url.path": asked.path},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            request_id = new_id()
            self._under_way += 1
            try:
                self._check(asked)
                response = await self._answer(asked, arrived, span)
            except web.HTTPRequestEntityTooLarge:
                response = _refusal(413, f"the body has more than {self._limits.wire_bytes} bytes")
            except asyncio.CancelledError:
                self._metrics.abandoned()
                raise  # the caller has gone
            except Exception as error:  # noqa: BLE001 - the one place where every exception becomes a status
                failure = report_failure(_log, error, request_id, asked.path, span, self._metrics)
                response = _refusal(_STATUS.get(failure.code, 500), failure.message, request_id)
            finally:
                self._under_way -= 1
            span.set_attribute("http.response.status_code", response.status)
            return response

    def _check(self, asked: web.Request) -> None:
        """Raises UnauthenticatedError or BusyError before anything of the body is read."""
        if self._token and not carries(asked.headers.get("Authorization", ""), self._token):
            raise UnauthenticatedError
        if self._under_way > self._limits.concurrent_requests:
            raise BusyError(self._limits.concurrent_requests)

    async def _answer(self, asked: web.Request, arrived: float, span: Span) -> web.Response:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        message, return_documents = read_request(await asked.read(), headers, self._rerankers)
        request: Request = wire.parse_rerank(message.SerializeToString(), self._limits)
        answer: Answer = await self._pipeline.rerank(request, None, arrived)
        describe(span, answer)
        self._metrics.answered(answer)
        return web.Response(
            body=write_answer(answer, request, return_documents),
            content_type="application/json",
            headers=answer_headers(answer),
        )


def _refusal(status: int, message: str, request_id: str = "") -> web.Response:
    body = {"message": message} | ({"id": request_id} if request_id else {})
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")


def _tls(listen: Listen) -> ssl.SSLContext | None:
    tls = listen.tls
    if not tls.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ListenError(f"listen.tls can't be used for listen.http: {error}") from None
    return context
