"""What every arm would give every query, once weights are chosen: tables that policies are read off from."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.profile import SIGNALS_ARM, FusionWeights
from sidecar.calibrate.fit_arm import columns_of, grid_of
from sidecar.calibrate.records import Floats, JudgedList, LatencySample
from sidecar.calibrate.surface import RERANK, first_stage_ndcg, surface
from sidecar.profiles import BUILT_IN, read
from tests.bench.report import BenchError

KS = (10, 20, 25, 50, 100, 200)
NONE = "none"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """nDCG@10: ``first_stage`` [queries]; by arm, ``values`` [queries, ks, weightings] at `KS` on the arm's grid, and
    ``built_in`` [queries, ks] with the weights of the built-in profile, as without calibration."""

    signals: str
    first_stage: Floats
    values: Mapping[str, Floats]
    built_in: Mapping[str, Floats]

    def of(self, arm: str, weights: FusionWeights) -> Floats:
        """nDCG@10 with these weights, [queries, ks]. Raises BenchError for weights that are not on the grid."""
        columns = columns_of(arm, self.signals)
        distances = np.abs(grid_of(columns) - _row(columns, weights)).sum(axis=1)
        if distances.min() > 0.01:
            raise BenchError(f"weights {weights} of {arm} are not on the grid")
        return self.values[arm][:, :, int(distances.argmin())]


def outcomes(lists: Sequence[JudgedList], signals: str, rerankers: Sequence[str]) -> Outcomes:
    """For lists whose candidates carry ``signals``."""
    profile = read(BUILT_IN)
    values, built_in = {}, {}
    for arm in (SIGNALS_ARM, *rerankers):
        columns = columns_of(arm, signals)
        values[arm] = surface(lists, columns, arm, grid_of(columns), KS)
        known = profile.arms.get(arm)
        if known is not None and signals in known.weights:
            row = _row(columns, known.weights[signals])
            built_in[arm] = surface(lists, columns, arm, row[None, :], KS)[:, :, 0]
    return Outcomes(signals, first_stage_ndcg(lists), values, built_in)


def _row(columns: Sequence[str], weights: FusionWeights) -> Floats:
    return np.array([weights.rerank if name == RERANK else weights.signals.get(name, 0.0) for name in columns])


def place(k: int) -> int:
    """Where in `KS` the result for ``k`` candidates stands: shorter lists give the same at every larger k."""
    return next((at for at, known in enumerate(KS) if known >= k), len(KS) - 1)


@dataclass(frozen=True, slots=True)
class AddedTime:
    """Median added latency in ms through the real service, by arm and k; warm documents."""

    ms: Mapping[tuple[str, int], float]

    def of(self, arm: str, k: int) -> float:
        """Between measured candidate counts on a straight line; the smallest or largest one beyond them."""
        if arm == NONE:
            return 0.0
        known = sorted((at, value) for (name, at), value in self.ms.items() if name == arm)
        return float(np.interp(k, [at for at, _ in known], [value for _, value in known]))


def added_time(samples: Sequence[LatencySample]) -> AddedTime:
    """Over the median of NONE in the same run. Raises BenchError where that is missing."""
    groups: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for sample in samples:
        if sample.warm:
            groups[sample.reranker, sample.rerank_k].append(sample.elapsed_ms)
    base = groups.pop((NONE, 0), None)
    if base is None:
        raise BenchError("the latency of NONE was not measured: there was too little time")
    floor = statistics.median(base)
    return AddedTime({key: max(0.0, statistics.median(values) - floor) for key, values in groups.items()})
