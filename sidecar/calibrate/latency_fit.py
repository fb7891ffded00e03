"""What an arm's requests took -> its latency prior: ``base_ms + ms_per_token * tokens`` and how far reality strays."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from router.latency import LatencyPrior
from sidecar.calibrate.records import Floats, LatencySample

_SMALLEST_MS: Final = 1e-3


def latency_prior(samples: Sequence[LatencySample]) -> LatencyPrior:
    """From one reranker's samples, cold and warm: ``stage_ms`` over ``tokens``, as the sidecar goes on to learn it.

    The line goes through the medians of the requests of each size (`rerank_k`, warm or cold), each weighing 1/ms^2: a
    miss of 10 % counts the same on 4 ms as on 400 ms, as in the router's own line. ``spread`` is the 95th percentile of
    measured/line over its median. Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("no latency samples: measure at least one request")
    groups: defaultdict[tuple[int, bool], list[LatencySample]] = defaultdict(list)
    for sample in samples:
        groups[sample.rerank_k, sample.warm].append(sample)
    tokens = np.array([statistics.median(one.tokens for one in group) for group in groups.values()], np.float64)
    ms = np.array([max(_SMALLEST_MS, statistics.median(one.stage_ms for one in group)) for group in groups.values()])
    base, slope = _line(tokens, ms)
    ratios = [one.stage_ms / max(_SMALLEST_MS, base + slope * one.tokens) for one in samples]
    middle = statistics.median(ratios)
    spread = float(np.quantile(ratios, 0.95)) / middle if middle > 0 else 1.0
    return LatencyPrior(base, slope, max(1.0, spread))


def _line(tokens: Floats, ms: Floats) -> tuple[float, float]:
    """Weighted least squares; where noise makes a coefficient negative, the other one alone."""
    weights = 1.0 / ms**2
    total = weights.sum()
    x, y = (weights * tokens).sum() / total, (weights * ms).sum() / total
    spread = (weights * (tokens - x) ** 2).sum()
    slope = float((weights * (tokens - x) * (ms - y)).sum() / spread) if spread > 0 else 0.0
    base = float(y - slope * x)
    if slope <= 0.0:
        return float(y), 0.0
    if base < 0.0:
        return 0.0, float((weights * tokens * ms).sum() / (weights * tokens**2).sum())
    return base, slope
