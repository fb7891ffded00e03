"""A sidecar for tests: a real gRPC server on loopback that answers as told.

    with FakeSidecar(ranked([2, 0, 1])) as sidecar, Client(sidecar.target) as client:
        assert [r.index for r in client.rerank("query", ["a", "b", "c"])] == [2, 0, 1]
        sidecar.behaviour = failing("UNAVAILABLE")
        assert client.rerank("query", ["a", "b", "c"]).fallback

A behaviour is any callable from the request message to the response message; the functions here make the
usual ones.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from google.rpc import error_details_pb2, status_pb2

from millirank._channel import HEALTH_SERVING, SERVICE
from millirank._ranking import Reason
from millirank.v1 import decision_pb2
from millirank.v1 import rerank_service_pb2 as pb

__all__ = ["Behaviour", "FakeSidecar", "failing", "first_stage", "partial", "ranked"]

Behaviour = Callable[[pb.RerankRequest], pb.RerankResponse]

_WORKERS = 32
_RERANKER = "fake"


class _StatusError(Exception):
    """What `failing` raises for the server to answer with."""

    def __init__(self, code: grpc.StatusCode, status: Any) -> None:
        super().__init__(code.name)
        self.code = code
        self.status = status


def ranked(order: Sequence[int] | None = None) -> Behaviour:
    """Answer FULL with the candidates in ``order`` (positions; by default reversed), all scored.

    Nothing checks ``order``: a wrong one is how to see what the client does with it.
    """

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        positions = range(len(request.documents))[::-1] if order is None else order
        return _response(request, positions, scored=len(positions), completeness=pb.COMPLETENESS_FULL)

    return behave


def partial(scored: int, reason: Reason = Reason.BUDGET_EXHAUSTED) -> Behaviour:
    """Answer PARTIAL: the first ``scored`` candidates reversed, the rest in first-stage order."""

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        count = len(request.documents)
        positions = [*range(min(scored, count))[::-1], *range(scored, count)]
        response = _response(request, positions, scored=scored, completeness=pb.COMPLETENESS_PARTIAL)
        response.degradations.add(reason=f"DEGRADATION_REASON_{reason.name}", detail="as told")
        return response

    return behave


def first_stage(reason: Reason = Reason.OVERLOADED) -> Behaviour:
    """Answer FIRST_STAGE_ONLY for ``reason`` (one that a sidecar can have)."""

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        positions = range(len(request.documents))
        response = _response(request, positions, scored=0, completeness=pb.COMPLETENESS_FIRST_STAGE_ONLY)
        response.degradations.add(reason=f"DEGRADATION_REASON_{reason.name}", detail="as told")
        return response

    return behave


def failing(
    code: str,
    message: str = "as told",
    *,
    field: str = "",
    reason: str = "",
    domain: str = "millirank.io",
    retry_after_ms: float | None = None,
) -> Behaviour:
    """Answer with the gRPC status ``code`` ("UNAVAILABLE", ...), with details as a sidecar sends them.

    ``field`` becomes a BadRequest violation, ``reason`` the ErrorInfo of ``domain``, ``retry_after_ms`` a RetryInfo.
    """
    status_code = grpc.StatusCode[code]
    status = status_pb2.Status(code=status_code.value[0], message=message)
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    if field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=field, description=message)
        status.details.add().Pack(bad)
    if retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(retry_after_ms * 1e3))
        status.details.add().Pack(retry)

    def behave(request: pb.RerankRequest) -> NoReturn:
        raise _StatusError(status_code, status)

    return behave


class FakeSidecar:
    """A context manager: a gRPC server at `target`, answering every rerank with `behaviour` after `delay_ms`.

    Both can be changed while it runs. ``requests``, ``metadata`` and ``deadlines_ms`` (what was left of the gRPC
    deadline) hold what came in, oldest first; ``decision`` is what ExplainRoute answers. `stop` and `start` keep the
    port, so that a restart can be played through. The server has no thread of the caller and no event loop, so it
    serves both clients.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, delay_ms: float = 0.0) -> None:
        self.behaviour = behaviour or ranked()
        self.delay_ms = delay_ms
        self.serving = True
        self.requests: list[pb.RerankRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.deadlines_ms: list[float] = []
        self.decision = decision_pb2.Decision(
            id="fake",
            strategy=decision_pb2.STRATEGY_CROSS_ENCODER,
            reranker=_RERANKER,
            reason=decision_pb2.DECISION_REASON_BEST_EXPECTED_GAIN,
            mode=decision_pb2.MODE_ON,
        )
        self._port = 0
        self._server: grpc.Server | None = None
        self._stopping = threading.Event()

    @property
    def target(self) -> str:
        """``127.0.0.1:port``; known from the first `start` on."""
        if not self._port:
            raise RuntimeError("the sidecar has not been started; use it as a context manager or call start()")
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        if self._server is not None:
            raise RuntimeError("the sidecar is running; call stop() first")
        self._stopping.clear()
        # Without SO_REUSEPORT: two servers on one port would share its connections instead of failing.
        server = grpc.server(ThreadPoolExecutor(_WORKERS), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((self._rerank_service(), self._health_service()))
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Close the port and every connection, without waiting for delayed answers."""
        if self._server is not None:
            # Connections first: a delayed answer that is let go before them would still be delivered.
            stopped = self._server.stop(None)
            self._stopping.set()
            stopped.wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _rerank_service(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Rerank": grpc.unary_unary_rpc_method_handler(
                    self._answer_rerank,
                    request_deserializer=pb.RerankRequest.FromString,
                    response_serializer=pb.RerankResponse.SerializeToString,
                ),
                "ExplainRoute": grpc.unary_unary_rpc_method_handler(
                    self._answer_explain,
                    request_deserializer=pb.ExplainRouteRequest.FromString,
                    response_serializer=pb.ExplainRouteResponse.SerializeToString,
                ),
            },
        )

    def _health_service(self) -> grpc.GenericRpcHandler:
        def check(request: bytes, context: grpc.ServicerContext) -> bytes:
            return HEALTH_SERVING if self.serving else b"\x08\x02"

        handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)

    def _note(self, request: pb.RerankRequest, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        left_s = context.time_remaining()
        self.deadlines_ms.append(math.inf if left_s is None else left_s * 1e3)

    def _answer_rerank(self, request: pb.RerankRequest, context: grpc.ServicerContext) -> pb.RerankResponse:
        self._note(request, context)
        try:
            response = self.behaviour(request)
            self._stopping.wait(self.delay_ms / 1e3)
            return response
        except _StatusError as error:
            self._stopping.wait(self.delay_ms / 1e3)
            _abort(context, error)

    def _answer_explain(
        self, request: pb.ExplainRouteRequest, context: grpc.ServicerContext
    ) -> pb.ExplainRouteResponse:
        self._note(request.request, context)
        try:
            self.behaviour(request.request)  # a failing sidecar fails here as well
        except _StatusError as error:
            _abort(context, error)
        return pb.ExplainRouteResponse(decision=self.decision)


def _abort(context: grpc.ServicerContext, error: _StatusError) -> NoReturn:
    context.set_trailing_metadata((("grpc-status-details-bin", error.status.SerializeToString()),))
    context.abort(error.code, error.status.message)
    raise AssertionError("abort() raises")


def _response(
    request: pb.RerankRequest, positions: Sequence[int], *, scored: int, completeness: pb.Completeness
) -> pb.RerankResponse:
    count = len(request.documents)
    response = pb.RerankResponse(request_id=request.request_id or "fake", completeness=completeness)
    for rank, position in enumerate(positions[: request.top_n or None]):
        result = response.results.add(
            index=position,
            id=request.documents[position].id if position < count else "",
            score_source=pb.SCORE_SOURCE_FIRST_STAGE,
        )
        if rank < scored:
            result.score = float(count - rank)
            result.raw_score = 1.0 / (1 + rank)
            result.score_source = pb.SCORE_SOURCE_RERANKER
    response.decision.id = "fake"
    response.decision.strategy = decision_pb2.STRATEGY_CROSS_ENCODER
    response.decision.reranker = _RERANKER
    response.decision.planned_k = count
    response.decision.scored_k = scored
    response.decision.reason = decision_pb2.DECISION_REASON_BEST_EXPECTED_GAIN
    response.decision.mode = decision_pb2.MODE_ON
    response.usage.pairs = scored
    response.cache_status = pb.CACHE_STATUS_MISS
    return response
