"""The way to a pool over gRPC: `RerankService` of any address that serves it, for `sidecar.rerankers.pool`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1.rerank_service_pb2_grpc import RerankServiceStub
from opentelemetry import propagate

from router.arms import Strategy
from sidecar.pool_addresses import target_of
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    NotReadyError,
    OverloadedError,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.pool import PoolAnswer, PoolRefusedError
from sidecar.rerankers.second_attempt import UnreachableError
from sidecar.scored_prefix import error_of
from sidecar.wire.words import DEGRADATION_REASON, STRATEGY, duration, milliseconds_of

# gRPC's own default is 4 MiB; 1,000 results take about 60 kB.
_MAX_ANSWER_BYTES = 1 << 20
_MAX_DETAIL = 300  # characters of the pool's words that go into ours

# Calls go round the addresses; one that answers UNAVAILABLE more often than the others is left out for a while
# (gRFC A50). There is no retry in here: second attempts are made where the time that is left is known.
_SERVICE_CONFIG: Mapping[str, Any] = {
    "loadBalancingConfig": [
        {
            "outlier_detection_experimental": {
                "interval": "1s",
                "baseEjectionTime": "5s",
                "maxEjectionTime": "60s",
                "maxEjectionPercent": 50,
                "failurePercentageEjection": {"threshold": 50, "minimumHosts": 2, "requestVolume": 10},
                "childPolicy": [{"round_robin": {}}],
            }
        }
    ]
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    # A pool's node that was replaced is a matter of a second, not of gRPC's 1 s growing to 2 min.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # A node that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)
_ERRORS = {number: error_of(reason) for reason, number in DEGRADATION_REASON.items()}
_REFUSED = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


class PoolChannel:
    """One model of a pool; implements `PoolTransport`. Make it on the event loop."""

    def __init__(
        self, addresses: Sequence[str], reranker: str, strategy: Strategy, *, ca_file: str = "", token: str = ""
    ) -> None:
        """``reranker`` is the model's name in the pool; ``ca_file`` a PEM file of who has signed its certificate, ''
        speaks plaintext. Raises ValueError as `target_of`, and PoolRefusedError for a file that can't be read.
        """
        self._routing = pb.Routing(reranker=reranker, strategy=STRATEGY[strategy])
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        target = target_of(addresses)
        if ca_file:
            try:
                credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
            except OSError as error:
                raise PoolRefusedError(f"ca_file {ca_file}: {error.strerror}") from None
            self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._stub = RerankServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    async def ask(self, request: ScoreRequest, left_ms: float, limit_s: float) -> PoolAnswer:
        """One `Rerank` of all candidates, whose scores are the model's own. See `PoolTransport`."""
        count = len(request.documents)
        message = pb.RerankRequest(
            query=request.query,
            documents=[pb.Document(id=document.id, text=document.text) for document in request.documents],
            budget=pb.Budget(latency=duration(left_ms)),
            routing=pb.Routing(reranker=self._routing.reranker, strategy=self._routing.strategy, rerank_k=count),
            cache_control=pb.CACHE_CONTROL_USE if request.use_cache else pb.CACHE_CONTROL_BYPASS,
            tenant=request.tenant,
        )
        answer: pb.RerankResponse = await self._call(self._stub.Rerank, message, limit_s)
        return PoolAnswer(_scored(answer, count), milliseconds_of(answer.timing.total))

    async def revision(self, limit_s: float) -> str:
        """The revision that a decision for this model names. See `PoolTransport`."""
        documents = [pb.Document(text="one"), pb.Document(text="two")]
        asked = pb.RerankRequest(query="which model", documents=documents, routing=self._routing)
        answer: pb.ExplainRouteResponse = await self._call(
            self._stub.ExplainRoute, pb.ExplainRouteRequest(request=asked), limit_s
        )
        if not answer.decision.model_revision:
            raise NotReadyError("the pool's model is still loading")
        return answer.decision.model_revision

    async def close(self) -> None:
        """Calls under way fail."""
        await self._channel.close(None)

    async def _call(self, method: Any, message: Message, limit_s: float) -> Any:
        """One call, in whose metadata the current span's context goes along, so that the pool's spans join the trace.

        What the pool says in an error is passed on only where the contract says that it holds no text.
        """
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        failure: RerankerError | TimeoutError
        try:
            return await method(message, timeout=limit_s, metadata=(*self._metadata, *carrier.items()))
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), (error.details() or "")[:_MAX_DETAIL]
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                failure = TimeoutError()
            elif code is grpc.StatusCode.UNAVAILABLE:
                failure = UnreachableError("no address of the pool takes calls")
            elif code in _REFUSED:
                failure = PoolRefusedError(f"the pool refuses: {code.name}: {details}")
            elif code is grpc.StatusCode.INVALID_ARGUMENT:
                failure = BackendError("the pool refuses the request; its limits must be as high as this sidecar's")
            elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                failure = OverloadedError("the pool takes no more requests now, or not one of this size")
            else:
                failure = BackendError(f"the pool answered {code.name}")
        except (DecodeError, grpc.aio.UsageError) as error:
            failure = BackendError(f"no usable answer from the pool ({type(error).__name__})")
        # Raised outside the handler, so that gRPC's own error, which names addresses, is not chained to it.
        raise failure


def _scored(answer: pb.RerankResponse, count: int) -> Scored:
    """The model's own scores in the order of the request; candidates without one are ``unscored``.

    Raises BadOutputError for an answer that is not about these candidates.
    """
    scores: list[float | None] = [None] * count
    for result in answer.results:
        if result.index >= count or scores[result.index] is not None:
            raise BadOutputError(f"the pool's results are not each of 0 to {count - 1} once")
        scores[result.index] = result.raw_score if result.HasField("raw_score") else math.nan
    if None in scores:
        raise BadOutputError(f"{len(answer.results)} results for {count} candidates")
    known = tuple(score for score in scores if score is not None)
    unscored = frozenset(result.index for result in answer.results if not result.HasField("raw_score"))
    shortfall, error = "", None
    if answer.degradations:
        worst = answer.degradations[0]
        shortfall = f"the pool: {worst.detail[:_MAX_DETAIL]}"
        error = _ERRORS.get(worst.reason, BackendError)
    elif unscored:
        shortfall, error = f"the pool has no score for {len(unscored)} of {count} candidates", BackendError
    return Scored(
        scores=tuple(0.0 if position in unscored else score for position, score in enumerate(known)),
        tokens=answer.usage.tokens,
        cached=answer.usage.cached_pairs,
        compute_ms=milliseconds_of(answer.timing.score),
        queue_ms=0.0,
        micro_usd=answer.usage.cost_micro_usd,
        unscored=unscored,
        shortfall=shortfall,
        shortfall_error=error,
        revision=answer.decision.model_revision,
    )
