"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from opentelemetry.trace import TracerProvider

from millirank._base import HEALTH_POLL_S, ClientBase, Reply, check_seconds
from millirank._call import RerankCall
from millirank._channel import (
    EXPLAIN_ROUTE,
    HEALTH_CHECK,
    HEALTH_REQUEST,
    HEALTH_SERVING,
    RERANK,
    ChannelOptions,
)
from millirank._decision import Decision, Strategy
from millirank._errors import ClientStateError, RequestError
from millirank._ranking import Ranking, Reason
from millirank._request import Extractors, Options, check_budget_ms
from millirank._silence import PROBE_S, Silence
from millirank._status import Failure, read_error
from millirank._tracing import Metadata, describe_failure
from millirank._wire import decision_from
from millirank.v1 import rerank_service_pb2 as pb

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Connection:
    """A channel, its calls, and the only event loop in which they work."""

    loop: asyncio.AbstractEventLoop
    channel: Any
    rerank: Any
    explain_route: Any
    health: Any


class AsyncClient(ClientBase):
    """`Client` for asyncio: the same arguments, the same promise.

    It belongs to one event loop: the one that runs while it is made, or, made outside of a loop, the one of
    its first use. Connecting starts then, in the background.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        options: ChannelOptions = (),
        reserve_ms: float = 1.0,
        slack_ms: float = 50.0,
        token: str = "",
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        super().__init__(
            target,
            credentials=credentials,
            options=options,
            reserve_ms=reserve_ms,
            slack_ms=slack_ms,
            token=token,
            tracer_provider=tracer_provider,
        )
        self._connection: _Connection | None = None
        self._replies: set[asyncio.Task[Reply]] = set()
        self._silence = Silence(self._probe)
        self._probes: set[asyncio.Task[None]] = set()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # made outside of a loop: connects at its first use
        self._connected()

    async def rerank(
        self,
        query: str,
        documents: Sequence[T],
        *,
        budget_ms: float = 100.0,
        text: Callable[[T], str] | None = None,
        id: Callable[[T], str] | None = None,
        signals: Callable[[T], Mapping[str, float]] | None = None,
        corpus: str = "",
        top_n: int = 0,
        strategy: Strategy | str = Strategy.AUTO,
        reranker: str = "",
        allowed: Sequence[Strategy | str] = (),
        rerank_k: int = 0,
        instruction: str = "",
        min_score: float | None = None,
        max_cost_micro_usd: int | None = None,
        tenant: str = "",
        request_id: str = "",
        use_cache: bool = True,
        strict: bool = False,
    ) -> Ranking[T]:
        """`Client.rerank` for asyncio: order ``documents``, the first stage's best first, for ``query``
        within ``budget_ms`` milliseconds.

        Everything is as there; the budget is kept by the event loop's own timer, so a loop that is blocked by
        other work answers as late as it is blocked.
        """
        call = self._prepare(
            query,
            documents,
            Extractors(text, id, signals),
            Options(
                budget_ms=budget_ms,
                corpus=corpus,
                top_n=top_n,
                strategy=strategy,
                reranker=reranker,
                allowed=allowed,
                rerank_k=rerank_k,
                instruction=instruction,
                min_score=min_score,
                max_cost_micro_usd=max_cost_micro_usd,
                tenant=tenant,
                request_id=request_id,
                use_cache=use_cache,
                strict=strict,
            ),
        )
        with self._observed(call) as span:
            if (answer := call.answer_without_sidecar()) is not None:
                return self._counted(answer, span)
            return self._conclude(call, await self._ask(call, self._metadata()), span)

    async def explain(
        self,
        query: str,
        documents: Sequence[T],
        *,
        timeout_ms: float = 1000.0,
        budget_ms: float = 100.0,
        text: Callable[[T], str] | None = None,
        id: Callable[[T], str] | None = None,
        signals: Callable[[T], Mapping[str, float]] | None = None,
        corpus: str = "",
        top_n: int = 0,
        strategy: Strategy | str = Strategy.AUTO,
        reranker: str = "",
        allowed: Sequence[Strategy | str] = (),
        rerank_k: int = 0,
        instruction: str = "",
        min_score: float | None = None,
        max_cost_micro_usd: int | None = None,
        tenant: str = "",
        request_id: str = "",
        use_cache: bool = True,
        strict: bool = False,
    ) -> Decision:
        """`Client.explain` for asyncio: what the sidecar would decide for the same `rerank` now, without the
        work.

        Waits up to ``timeout_ms``. There is nothing to fall back to: raises `RerankError` where no answer
        came, and the errors of `rerank` otherwise.
        """
        timeout_s = check_budget_ms(timeout_ms, "timeout_ms") / 1e3
        call = self._prepare(
            query,
            documents,
            Extractors(text, id, signals),
            Options(
                budget_ms=budget_ms,
                corpus=corpus,
                top_n=top_n,
                strategy=strategy,
                reranker=reranker,
                allowed=allowed,
                rerank_k=rerank_k,
                instruction=instruction,
                min_score=min_score,
                max_cost_micro_usd=max_cost_micro_usd,
                tenant=tenant,
                request_id=request_id,
                use_cache=use_cache,
                strict=strict,
            ),
        )
        request = pb.ExplainRouteRequest()
        request.request.ParseFromString(call.message_without_clock())
        with self._tracing.span("ExplainRoute", {"millirank.documents": len(call.documents)}) as span:
            try:
                response = await self._connected().explain_route(request, timeout=timeout_s, metadata=self._metadata())
            except grpc.aio.AioRpcError as error:
                failure = read_error(error)
                if isinstance(failure, RequestError):
                    raise failure from None
                describe_failure(span, failure)
                raise failure.as_error() from None
            return decision_from(response.decision)

    async def wait_until_ready(self, timeout_s: float = 5.0) -> bool:
        """`Client.wait_until_ready` for asyncio."""
        self._check_usable()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + check_seconds(timeout_s, "timeout_s")
        while True:
            left = deadline - loop.time()
            if await self._is_serving(max(left, 0.0)):
                return True
            if left <= HEALTH_POLL_S:
                return False
            await asyncio.sleep(HEALTH_POLL_S)

    async def close(self) -> None:
        """Close the connection. Calls in flight are answered in first-stage order."""
        self._closed = True
        if self._connection is not None:
            await self._connection.channel.close()
        if running := {*self._replies, *self._probes}:
            await asyncio.wait(running)

    async def __aenter__(self) -> Self:
        self._check_usable()
        self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> _Connection:
        """The connection, made at the first use; raises `ClientStateError` in any other event loop."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            self._connection = self._connect(loop)
        elif self._connection.loop is not loop:
            raise ClientStateError(
                "the client belongs to another event loop; make one AsyncClient per loop (per asyncio.run)"
            )
        return self._connection

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        channel = (
            grpc.aio.insecure_channel(self._target, options=self._options)
            if self._credentials is None
            else grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
        )
        channel.get_state(try_to_connect=True)
        return _Connection(
            loop=loop,
            channel=channel,
            # Bytes go in: the request is encoded before its budget is known (see `encode_latency`).
            rerank=channel.unary_unary(RERANK, response_deserializer=pb.RerankResponse.FromString),
            explain_route=channel.unary_unary(
                EXPLAIN_ROUTE,
                request_serializer=pb.ExplainRouteRequest.SerializeToString,
                response_deserializer=pb.ExplainRouteResponse.FromString,
            ),
            health=channel.unary_unary(HEALTH_CHECK),
        )

    async def _ask(self, call: RerankCall[Any], metadata: Metadata) -> Reply:
        rerank = self._connected().rerank
        if self._silence.lasts():
            # The health check that ends the silence runs on this loop: callers in a tight loop must not starve it.
            await asyncio.sleep(0)
            return call.held_back()
        rpc = rerank(call.message(), timeout=call.rpc_timeout_s(), metadata=metadata)
        reply = asyncio.ensure_future(self._reply(rpc))
        # The loop holds tasks weakly; a reply that its caller has left would otherwise vanish uncounted.
        self._replies.add(reply)
        reply.add_done_callback(self._replies.discard)
        try:
            # Neither wait_for nor timeout(): both cancel the call and then wait for it to agree.
            await asyncio.wait((reply,), timeout=call.timer_s())
        except asyncio.CancelledError:
            self._silence.left()
            reply.cancel()
            raise
        if not reply.done():
            self._silence.left()
            reply.add_done_callback(self._count_late)
            return call.timed_out()
        return reply.result()

    async def _reply(self, rpc: Any) -> Reply:
        """What the call answers; its status instead of an exception, so that nobody has to collect one."""
        try:
            response: pb.RerankResponse = await rpc
        except grpc.aio.AioRpcError as error:
            self._silence.ended(error.code())
            return read_error(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this task but the call was cancelled: the client was closed.
            return Failure(Reason.SIDECAR_UNAVAILABLE, "the client was closed during the call", "CANCELLED")
        self._silence.ended(grpc.StatusCode.OK)
        return response

    def _count_late(self, reply: asyncio.Task[Reply]) -> None:
        if not reply.cancelled() and isinstance(reply.result(), pb.RerankResponse):
            self._stats.late()

    def _probe(self) -> None:
        probe = asyncio.ensure_future(self._check_health())
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _check_health(self) -> None:
        code = grpc.StatusCode.CANCELLED
        try:
            await self._connected().health(HEALTH_REQUEST, timeout=PROBE_S)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
        finally:
            self._silence.probed(code)

    async def _is_serving(self, timeout_s: float) -> bool:
        try:
            answer: bytes = await self._connected().health(HEALTH_REQUEST, timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            # A sidecar without health service is reachable, and there is nothing more to be known.
            return bool(error.code() is grpc.StatusCode.UNIMPLEMENTED)
        return answer == HEALTH_SERVING
