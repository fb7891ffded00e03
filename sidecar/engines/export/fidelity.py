"""How close an export is to the model that it was made from, and how fast it runs here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.engines.export.tensors import Floats

LEAST_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class PairGroup:
    """A query and the texts that are ranked for it."""

    query: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Scores of an export against the float32 reference, over ``pairs`` pairs.

    ``largest`` and ``mean`` are absolute differences of logits, ``spread`` is the reference's standard deviation;
    ``tau`` is Kendall's tau-b within each query's list, averaged over the queries.
    """

    pairs: int
    largest: float
    mean: float
    spread: float
    tau: float


def compare(reference: Sequence[Floats], exported: Sequence[Floats]) -> Fidelity:
    """Both hold one array of scores per query, in the same order."""
    expected, found = np.concatenate(list(reference)), np.concatenate(list(exported))
    difference = np.abs(expected - found)
    return Fidelity(
        pairs=len(expected),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        spread=float(expected.std()),
        tau=float(np.mean([kendall_tau(one, other) for one, other in zip(reference, exported, strict=True)])),
    )


def kendall_tau(one: Floats, other: Floats) -> float:
    """Tau-b (Kendall 1945): (concordant - discordant) / sqrt of the pairs untied in each; 1 when nothing can disagree.

    Quadratic in the length, which is a handful of texts here.
    """
    first, second = (np.sign(values[:, None] - values[None, :]) for values in (one, other))
    untied = float(np.sqrt((first**2).sum() * (second**2).sum()))
    if untied == 0:
        return 1.0 if (first == second).all() else 0.0
    return float((first * second).sum()) / untied


def paces(runs: Mapping[str, Callable[[], int]], seconds: float) -> dict[str, float]:
    """Pairs per second of each run, which answers how many pairs it scored.

    Round by round, so that what else the machine does hits all alike; the best round of each counts, because other
    programs only ever slow one down. At least `LEAST_ROUNDS`, then until ``seconds`` are over.
    """
    for run in runs.values():
        run()  # the first run allocates
    best = dict.fromkeys(runs, 0.0)
    started, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        for name, run in runs.items():
            begun = time.perf_counter()
            pairs = run()
            best[name] = max(best[name], pairs / (time.perf_counter() - begun))
        rounds += 1
    return best
