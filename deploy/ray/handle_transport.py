"""The way from the ingress to a model's replicas: a Ray Serve handle, which chooses among them by their queues."""

from __future__ import annotations

import asyncio
from typing import Any

from opentelemetry import propagate
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from sidecar.rerankers.base import BackendError, OverloadedError, RerankerError, ScoreRequest
from sidecar.rerankers.pool import PoolAnswer
from sidecar.rerankers.second_attempt import UnreachableError


class HandleTransport:
    """One model's replicas; implements `PoolTransport`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def ask(self, request: ScoreRequest, left_ms: float, limit_s: float) -> PoolAnswer:
        """One replica's answer. The span that is current here goes along as its parent."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        answer: PoolAnswer = await self._result(self._handle.score.remote(request, left_ms, carrier), limit_s)
        return answer

    async def revision(self, limit_s: float) -> str:
        """The model of one of the replicas."""
        revision: str = await self._result(self._handle.revision.remote(), limit_s)
        return revision

    async def close(self) -> None:
        """Nothing: the handle is Ray's."""

    @staticmethod
    async def _result(response: Any, limit_s: float) -> Any:
        failure: RerankerError
        try:
            async with asyncio.timeout(limit_s):
                return await response
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | TimeoutError):
                response.cancel()  # the replica is to stop, too
                raise
            # Ray's words are not passed on: they may quote what was sent.
            if isinstance(error, BackPressureError):
                failure = OverloadedError("too many requests wait for the model's replicas")
            elif isinstance(error, RayActorError):
                failure = UnreachableError("the replica died")
            elif isinstance(error, RayServeException):
                failure = UnreachableError(f"no replica takes the call ({type(error).__name__})")
            elif isinstance(error, RayError):
                failure = BackendError(f"the replica failed ({type(error).__name__})")
            else:
                raise
        raise failure
