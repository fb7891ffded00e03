"""From single requests to what an arm adds: quantiles over the caller's latency without reranking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sidecar.calibrate.metrics import CONFIDENCE
from sidecar.calibrate.records import LatencySample
from sidecar.calibrate.report.readout import NONE_ARM, Added

ArmKey = tuple[str, int, bool]
"""Reranker, rerank_k, warm."""
_RESAMPLES = 2000


def added_latency(samples: Sequence[LatencySample]) -> Mapping[ArmKey, Added]:
    """Latency added by every arm that was measured: elapsed time less the median of ``none`` in the same run.

    A percentile of n requests says little above 1 - 1/n; `Added.requests` tells. Raises ValueError where ``none`` was
    not measured: then there is nothing to compare with.
    """
    baseline = [sample.elapsed_ms for sample in samples if sample.reranker == NONE_ARM]
    if not baseline:
        raise ValueError("no latency of requests without reranking: nothing to compare with")
    without_ms = float(np.median(baseline))
    groups: defaultdict[ArmKey, list[LatencySample]] = defaultdict(list)
    for sample in samples:
        if sample.reranker != NONE_ARM:
            groups[sample.reranker, sample.rerank_k, sample.warm].append(sample)
    return {key: _summary(group, without_ms) for key, group in groups.items()}


def usd_per_1k(samples: Sequence[LatencySample]) -> Mapping[tuple[str, int], float]:
    """US dollars for 1,000 requests by (reranker, rerank_k): the mean price of the requests that were measured."""
    prices: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for sample in samples:
        prices[sample.reranker, sample.rerank_k].append(sample.micro_usd)
    return {key: float(np.mean(values)) * 1000 / 1e6 for key, values in prices.items()}


def _summary(samples: Sequence[LatencySample], without_ms: float) -> Added:
    added = np.array([sample.elapsed_ms for sample in samples]) - without_ms
    p50, p95, p99 = np.quantile(added, [0.5, 0.95, 0.99])
    rng = np.random.default_rng(0)
    medians = np.median(added[rng.integers(0, added.size, (_RESAMPLES, added.size))], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    busy_s = max(float(added.sum()), 0.0) / 1e3
    pairs = sum(sample.pairs for sample in samples)
    return Added(
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        p50_low_ms=float(low),
        p50_high_ms=float(high),
        pairs_per_s=pairs / busy_s if busy_s else 0.0,
        requests=len(samples),
    )
