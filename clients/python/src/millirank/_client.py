"""The synchronous client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
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
from millirank._ranking import Ranking
from millirank._request import Extractors, Options, check_budget_ms
from millirank._silence import PROBE_S, Silence
from millirank._stats import StatsRecorder
from millirank._status import read_error
from millirank._tracing import Metadata, describe_failure
from millirank._wire import decision_from
from millirank.v1 import rerank_service_pb2 as pb

T = TypeVar("T")

_WARM_UP_S = 1.0


class Client(ClientBase):
    """Reranks within a budget, or returns first-stage order when the budget ends. Safe to share between
    threads.

    ``target`` is ``"host:port"`` or ``"unix:/path"``. Insecure unless ``credentials`` are given
    (`grpc.ssl_channel_credentials`). ``options`` are gRPC channel options; they replace this client's own of
    the same name. ``reserve_ms`` (at most 10 % of a budget is taken) is kept back for the transport;
    ``slack_ms`` is what the gRPC deadline adds to the budget. ``token`` is for a sidecar that asks for one
    (its ``listen.token_file``); it needs ``credentials`` unless the target is on this machine. Connecting
    starts at once and happens in the background.

    One client per process: make it after a fork, not before. Raises TypeError or ValueError for a wrong
    argument.
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
        self._channel = (
            grpc.insecure_channel(self._target, options=self._options)
            if self._credentials is None
            else grpc.secure_channel(self._target, self._credentials, options=self._options)
        )
        # Bytes go in: the request is encoded before its budget is known (see `encode_latency`).
        self._rerank = self._channel.unary_unary(RERANK, response_deserializer=pb.RerankResponse.FromString)
        self._explain_route = self._channel.unary_unary(
            EXPLAIN_ROUTE,
            request_serializer=pb.ExplainRouteRequest.SerializeToString,
            response_deserializer=pb.ExplainRouteResponse.FromString,
        )
        self._health = self._channel.unary_unary(HEALTH_CHECK)
        self._silence = Silence(self._probe)
        # A call that waits for the connection is what makes gRPC connect. Its own way, Channel.subscribe,
        # runs a thread that raises when the channel is closed at the wrong moment (measured with grpcio 1.85:
        # 180 of 400 times).
        self._health.future(HEALTH_REQUEST, timeout=_WARM_UP_S, wait_for_ready=True)

    def rerank(
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
        """Order ``documents``, the first stage's best first, for ``query`` within ``budget_ms`` milliseconds.

        Documents are `millirank.Document` objects, str, or anything else with ``text=`` saying how to read
        the text (``id=`` and ``signals=`` likewise); the ranking returns the very same objects. ``top_n`` 0
        returns all. ``allowed``, ``strategy``, ``reranker`` and ``rerank_k`` limit what the router may
        choose. ``min_score`` leaves out scored documents whose `Ranked.raw_score` is lower.

        When the budget ends without a usable answer the first-stage order is returned, `Outcome.FIRST_STAGE`,
        with the reason. ``strict`` wants an exception instead, also for an answer that is less than planned.

        Raises `InvalidRequestError`, `RerankerNotFoundError`, `RerankerOffError` (the request is wrong),
        `ClientStateError`, and if strict `RerankError`.
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
            return self._conclude(call, self._ask(call, self._metadata()), span)

    def explain(
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
        """What the sidecar would decide for the same `rerank` now, without doing the work.

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
                response = self._explain_route(request, timeout=timeout_s, metadata=self._metadata())
            except grpc.RpcError as error:
                failure = read_error(error)
                if isinstance(failure, RequestError):
                    raise failure from None
                describe_failure(span, failure)
                raise failure.as_error() from None
            return decision_from(response.decision)

    def wait_until_ready(self, timeout_s: float = 5.0) -> bool:
        """Wait until the sidecar is reachable and does not call itself NOT_SERVING; False after ``timeout_s``
        seconds.

        For start-up and tests. Reranking needs no waiting: it falls back by itself.
        """
        self._check_usable()
        deadline = time.monotonic() + check_seconds(timeout_s, "timeout_s")
        while True:
            left = deadline - time.monotonic()
            if self._is_serving(max(left, 0.0)):
                return True
            if left <= HEALTH_POLL_S:
                return False
            time.sleep(HEALTH_POLL_S)

    def close(self) -> None:
        """Close the connection. Calls in flight are answered in first-stage order."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: RerankCall[Any], metadata: Metadata) -> Reply:
        try:
            if self._silence.lasts():
                return call.held_back()
            future = self._rerank.future(call.message(), timeout=call.rpc_timeout_s(), metadata=metadata)
        except ValueError as error:
            # The only thing left that gRPC refuses: another thread closed the channel meanwhile.
            raise ClientStateError(f"the call could not be started: {error}") from error
        future.add_done_callback(lambda ended: self._silence.ended(ended.code()))
        pending = _Pending(future, self._stats)
        try:
            in_time = pending.wait(call.timer_s())
        except BaseException:  # Ctrl-C while waiting
            self._silence.left()
            future.cancel()
            raise
        if not in_time:
            self._silence.left()
            return call.timed_out()
        if future.code() is grpc.StatusCode.OK:
            response: pb.RerankResponse = future.result()
            return response
        return read_error(future)

    def _probe(self) -> None:
        health = self._health.future(HEALTH_REQUEST, timeout=PROBE_S)
        health.add_done_callback(lambda ended: self._silence.probed(ended.code()))

    def _is_serving(self, timeout_s: float) -> bool:
        try:
            answer: bytes = self._health(HEALTH_REQUEST, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            # A sidecar without health service is reachable, and there is nothing more to be known.
            return bool(error.code() is grpc.StatusCode.UNIMPLEMENTED)
        return answer == HEALTH_SERVING


class _Pending:
    """A call in flight that its caller can leave.

    Not `future.result(timeout)`: that measures on the wall clock, which can be set back while it waits. A
    call that was left is not cancelled either: its gRPC deadline ends it within the slack, and until then a
    late answer is counted.
    """

    def __init__(self, future: Any, stats: StatsRecorder) -> None:
        self._stats = stats
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._left = False
        future.add_done_callback(self._arrived)

    def wait(self, seconds: float) -> bool:
        """Whether the call ended within ``seconds``; if not, it has been left."""
        if self._done.wait(seconds):
            return True
        with self._lock:
            self._left = not self._done.is_set()
        return not self._left

    def _arrived(self, future: Any) -> None:
        with self._lock:
            self._done.set()
            late = self._left
        if late and future.code() is grpc.StatusCode.OK:
            self._stats.late()
