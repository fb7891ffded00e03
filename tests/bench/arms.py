"""The sidecar's model arms as seen from outside: which there are, and whether they score yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from sidecar.reranker_settings import OnnxCrossEncoder, OnnxLateInteraction
from sidecar.settings import Settings
from tests.bench.connection import Connection
from tests.bench.report import BenchError

_READY_TIMEOUT_S = 60.0
_POLL_S = 0.01
_PATIENCE_S = 30
"""Budget of a request that may take as long as it needs."""


@dataclass(frozen=True, slots=True)
class Arms:
    """The local model arms that score, and for each of the others the reason why it is switched off."""

    ready: tuple[str, ...]
    off: tuple[str, ...]

    def require_all(self) -> None:
        """Raises BenchError naming every arm that is off, with its reason."""
        if self.off:
            raise BenchError("; ".join(self.off))


def forced(reranker: str, query: str, texts: Sequence[str]) -> pb.RerankRequest:
    """A request that makes ``reranker`` score all of ``texts``, however long it takes, and keeps no answer."""
    request = pb.RerankRequest(query=query, cache_control=pb.CACHE_CONTROL_BYPASS)
    request.documents.extend(pb.Document(text=text) for text in texts)
    request.budget.latency.seconds = _PATIENCE_S
    request.routing.reranker = reranker
    request.routing.rerank_k = len(texts)
    return request


def settle(connection: Connection, left_out: Sequence[str] = ()) -> Arms:
    """Wait until every local arm has scored something or has said that it is off; nothing loads any more then.

    ``left_out`` are those that the sidecar was started without.

    Raises BenchError, with the arm and its reason, when one does neither in time.
    """
    end = time.monotonic() + _READY_TIMEOUT_S
    ready, off = [], []
    for name, configured in Settings().rerankers.items():
        if not isinstance(configured, OnnxCrossEncoder | OnnxLateInteraction) or not configured.enabled:
            continue
        if name in left_out:
            continue
        try:
            while (waiting := _not_yet(connection, name)) is not None:
                if time.monotonic() > end:
                    raise BenchError(f"reranker {name} is not ready after {_READY_TIMEOUT_S:g} s: {waiting}")
                time.sleep(_POLL_S)
            ready.append(name)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise BenchError(f"reranker {name}: {error.code().name}: {error.details()}") from None
            off.append(str(error.details()))
    return Arms(tuple(ready), tuple(off))


def _not_yet(connection: Connection, arm: str) -> str | None:
    """Why the arm does not score now; None if it does. Raises grpc.RpcError where waiting is no use."""
    answer = connection.rerank(forced(arm, "is it ready", ["It is.", "It is not."]))
    if answer.completeness == pb.COMPLETENESS_FULL and answer.decision.reranker == arm:
        return None
    reasons = [degradation.detail for degradation in answer.degradations]
    return "; ".join(reasons) or dpb.DecisionReason.Name(answer.decision.reason)
