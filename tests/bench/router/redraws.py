"""Halves of the queries redrawn again and again, side by side on all processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from sidecar.calibrate.make.measure import Measured, carried
from sidecar.calibrate.pooled import read
from sidecar.calibrate.records import Floats, LatencySample
from sidecar.engines.threads import usable_cpus
from tests.bench.router.outcomes import AddedTime, Outcomes, added_time, outcomes
from tests.bench.router.policies import Policy, try_half


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy on one collection and first stage: [redraws, queries] nDCG@10 and added ms, NaN where not tested."""

    ndcg: Floats
    ms: Floats

    def per_query(self) -> Floats:
        """Mean nDCG@10 of every query over the redraws in which it was tested, at least one."""
        tested = ~np.isnan(self.ndcg).all(axis=0)
        mean: Floats = np.nanmean(self.ndcg[:, tested], axis=0)
        return mean

    def mean_ms(self) -> float:
        """Mean added latency."""
        return float(np.nanmean(self.ms))


Results = Mapping[tuple[str, str], Mapping[str, Trial]]
"""(collection, first stage) -> policy -> what it gave."""


def run(
    measured: Sequence[tuple[Measured, Sequence[LatencySample]]], redraws: int, seed: int, done: Callable[[], None]
) -> Results:
    """Every policy on every collection and first stage. ``done`` is called after each of them, redraw for redraw.

    What is pooled over collections comes from the package and leaves out the collection that is tested.
    """
    jobs = [
        (one, stage, redraw)
        for one, (collection, _) in enumerate(measured)
        for stage in collection.lists
        for redraw in range(redraws)
    ]
    found: dict[tuple[str, str], dict[str, Trial]] = {}
    with ProcessPoolExecutor(usable_cpus(), initializer=_begin, initargs=(measured, seed)) as pool:
        try:
            futures = {pool.submit(_one, *job): job for job in jobs}
            for future in as_completed(futures):
                one, stage, redraw = futures[future]
                collection = measured[one][0]
                count = len(collection.lists[stage])
                tested, policies = future.result()
                table = found.setdefault((collection.collection.name, stage), {})
                for name, policy in policies.items():
                    if name not in table:
                        table[name] = Trial(np.full((redraws, count), np.nan), np.full((redraws, count), np.nan))
                    table[name].ndcg[redraw, tested] = policy.ndcg
                    table[name].ms[redraw, tested] = policy.ms
                done()
        finally:
            pool.shutdown(cancel_futures=True)
    return found


class _State:
    """What a worker process knows; made once in each."""

    measured: Sequence[tuple[Measured, Sequence[LatencySample]]] = ()
    seed = 0
    tables: dict[tuple[int, str], tuple[Outcomes, AddedTime]] = {}  # noqa: RUF012


def _begin(measured: Sequence[tuple[Measured, Sequence[LatencySample]]], seed: int) -> None:
    _State.measured, _State.seed, _State.tables = measured, seed, {}


def _one(one: int, stage: str, redraw: int) -> tuple[list[int], dict[str, Policy]]:
    collection, samples = _State.measured[one]
    lists = collection.lists[stage]  # type: ignore[index]
    if (one, stage) not in _State.tables:
        known = outcomes(lists, carried(lists), list(collection.strategies))
        _State.tables[one, stage] = known, added_time(samples)
    known, time = _State.tables[one, stage]
    shuffled = np.random.default_rng([_State.seed, redraw]).permutation(len(lists)).tolist()
    fitted_on, tested = shuffled[: len(lists) // 2], shuffled[len(lists) // 2 :]
    pooled = read().without(collection.collection.documents_digest)
    return tested, try_half(collection, stage, samples, known, time, (fitted_on, tested), pooled)
