"""What the sync and the asyncio client have in common: settings, counters, spans."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from opentelemetry.trace import Span, TracerProvider

from millirank._call import RerankCall
from millirank._channel import ChannelOptions, channel_options, check_target, check_token
from millirank._errors import ClientStateError, RequestError
from millirank._ranking import Ranking
from millirank._request import Extractors, Options, check_budget_ms
from millirank._stats import Stats, StatsRecorder
from millirank._status import Failure
from millirank._tracing import Metadata, Tracing, describe, describe_failure, outgoing_metadata
from millirank.v1 import rerank_service_pb2 as pb

T = TypeVar("T")

Reply = pb.RerankResponse | Failure | RequestError
HEALTH_POLL_S = 0.05


class ClientBase:
    """Checked settings and the bookkeeping around one call; subclasses add the transport."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        options: ChannelOptions,
        reserve_ms: float,
        slack_ms: float,
        token: str,
        tracer_provider: TracerProvider | None,
    ) -> None:
        self._target = check_target(target)
        if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
            raise TypeError(
                f"credentials is a {type(credentials).__name__}; pass what grpc.ssl_channel_credentials() returns"
            )
        self._credentials = credentials
        token = check_token(token, self._target, encrypted=credentials is not None)
        self._authorization: Metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._options = channel_options(options)
        self._reserve_ms = check_budget_ms(reserve_ms, "reserve_ms")
        self._slack_ms = check_budget_ms(slack_ms, "slack_ms")
        self._stats = StatsRecorder()
        self._tracing = Tracing(self._target, tracer_provider)
        self._pid = os.getpid()
        self._closed = False

    @property
    def stats(self) -> Stats:
        """What this client has answered so far; a snapshot."""
        return self._stats.snapshot()

    def _metadata(self) -> Metadata:
        """What goes along with every call: the current trace context, and the token."""
        return outgoing_metadata() + self._authorization

    def _check_usable(self) -> None:
        if self._closed:
            raise ClientStateError("the client is closed; make a new one")
        if os.getpid() != self._pid:
            raise ClientStateError(
                f"the client was made in process {self._pid}, before a fork, which gRPC connections do not "
                "survive; make it in the child process (gunicorn: post_fork; multiprocessing: initializer)"
            )

    def _prepare(
        self, query: str, documents: Iterable[T], extractors: Extractors[T], options: Options
    ) -> RerankCall[T]:
        call = RerankCall(query, documents, extractors, options, reserve_ms=self._reserve_ms, slack_ms=self._slack_ms)
        self._check_usable()
        return call

    @contextmanager
    def _observed(self, call: RerankCall[Any]) -> Iterator[Span]:
        """A span around the rerank; counts how it ends, unless `_conclude` did."""
        self._stats.started()
        attributes = {"millirank.budget_ms": call.budget_ms, "millirank.documents": len(call.documents)}
        with self._tracing.span("Rerank", attributes) as span:
            try:
                yield span
            except BaseException:
                self._stats.raised()
                raise

    def _conclude(self, call: RerankCall[T], reply: Reply, span: Span) -> Ranking[T]:
        """The ranking that the caller gets for this reply; raises the caller's mistakes, and failures if
        strict.
        """
        if isinstance(reply, RequestError):
            raise reply
        answer = call.read(reply) if isinstance(reply, pb.RerankResponse) else reply
        if isinstance(answer, Failure):
            describe_failure(span, answer)
            return self._counted(call.fall_back(answer), span)
        span.set_attribute("rpc.response.status_code", "OK")
        return self._counted(answer, span)

    def _counted(self, ranking: Ranking[T], span: Span) -> Ranking[T]:
        self._stats.answered(ranking)
        describe(span, ranking)
        return ranking


def check_seconds(value: float, name: str) -> float:
    """``value`` as finite seconds from 0. Raises ValueError."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; pass seconds from 0")
    return value
