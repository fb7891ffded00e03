"""What is asked of every place that the model runs at, and what is found there."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "tiny-cross-encoder"
CANDIDATES = 20
ONE_BY_ONE = 150
"""Requests of one caller, who waits for each answer."""
AT_ONCE = 6
"""Callers that never wait, for `TOGETHER_S` seconds."""
TOGETHER_S = 8.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One request after the other, in ms; and as many as are answered when some callers never wait."""

    p50_ms: float
    p95_ms: float
    requests_per_s: float
    together_p99_ms: float


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request to the pool spends its time, medians in ms, seen by a bare gRPC client.

    ``proxy_ms`` from the client through Ray's proxy to the ingress and back; ``replica_ms`` in the ingress and from
    there to the replica and back; ``model_ms`` the model's own.
    """

    proxy_ms: float
    replica_ms: float
    model_ms: float
