"""Router and queue of a pool at any load, with service times that were measured. Seeded: the same figures every time.

Requests come as a Poisson process. Each goes to the shorter of two replicas drawn at random (as Ray Serve does:
Mitzenmacher, The Power of Two Choices, 2001), waits its turn there, and is scored chunk by chunk: a chunk starts only
if the sidecar's own estimator predicts it, at p95, to end in time. Who would not get one chunk is answered at once in
first-stage order. What is left out: the network beyond a constant way, failures, caches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from router.latency import LatencyEstimator, LatencyPrior

TOLERANCE_MS = 5.0  # DESIGN section 6, invariant 1
_TOKENS = 1  # of a chunk: all chunks are alike
_LEARN = 200  # chunks that the estimator has seen before the first request


@dataclass(frozen=True, slots=True)
class Load:
    """``chunk_ms`` are measured times of one chunk, drawn with replacement; ``chunks`` make a whole request.

    ``way_ms`` is what the way to the replica and back takes, half of it in each direction.
    """

    chunk_ms: Sequence[float]
    chunks: int
    way_ms: float
    budget_ms: float
    rate_per_s: float
    requests: int


@dataclass(frozen=True, slots=True)
class Figures:
    """``adherence``: answers within budget + 5 ms; ``useful``: scored chunks of those asked for; ``full``: answers with
    all of them; ``first_stage``: with none; ``busy``: part of the replicas' time that was computed."""

    replicas: int
    adherence: float
    useful: float
    full: float
    first_stage: float
    p99_ms: float
    busy: float


def simulate(load: Load, replicas: int, seed: int) -> Figures:
    """All requests of ``load`` at so many replicas. Raises ValueError for no replica or no measured time."""
    if replicas < 1 or not load.chunk_ms:
        raise ValueError("there must be a replica, and a measured time of a chunk")
    draw = random.Random(seed)
    estimator = LatencyEstimator(LatencyPrior(base_ms=load.chunk_ms[0], ms_per_token=0.0))
    for _ in range(_LEARN):
        estimator.observe(_TOKENS, draw.choice(load.chunk_ms), 0.0)
    free_at = [0.0] * replicas
    now = computed_ms = 0.0
    took, scored = [], []
    for _ in range(load.requests):
        now += draw.expovariate(load.rate_per_s) * 1e3
        one, two = draw.randrange(replicas), draw.randrange(replicas)
        replica = one if free_at[one] <= free_at[two] else two
        end = now + load.budget_ms - load.way_ms / 2  # at the replica
        at = max(now + load.way_ms / 2, free_at[replica])
        began, done = at, 0
        p95_ms = estimator.predict(_TOKENS, 0.0).p95_ms
        while done < load.chunks and at + p95_ms <= end:
            chunk_ms = draw.choice(load.chunk_ms)
            at += chunk_ms
            done += 1
        if done:
            free_at[replica] = at
            computed_ms += at - began
        # With nothing that fits there is nothing to wait for.
        took.append(at + load.way_ms / 2 - now if done else load.way_ms)
        scored.append(done)
    took.sort()
    count = load.requests
    return Figures(
        replicas=replicas,
        adherence=sum(each <= load.budget_ms + TOLERANCE_MS for each in took) / count,
        useful=sum(scored) / (count * load.chunks),
        full=sum(each == load.chunks for each in scored) / count,
        first_stage=sum(each == 0 for each in scored) / count,
        p99_ms=took[min(count - 1, int(0.99 * count))],
        busy=min(1.0, computed_ms / (replicas * max(now, max(free_at)))),
    )
