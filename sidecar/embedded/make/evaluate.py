"""From candidate scores to figures: nDCG@10 of fused orders, and fusion weights chosen without seeing the collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.calibrate.metrics import Interval, macro_bootstrap, ndcg_at_10
from sidecar.embedded.make.features import Candidates, Collection
from sidecar.embedded.make.teacher import z

Floats = NDArray[np.float32]
Weights: TypeAlias = Mapping[str, float]
"""Weight of the z-score of `bm25`, `dense`, `rank` (reciprocal rank), `li` (late interaction) or `ce`; none: no change."""
PerQuery: TypeAlias = NDArray[np.float64]

KS = (10, 25, 50, 100)
CHOICE_K = 50
GRID = (0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """A collection with its candidates and the cross-encoder's logits for them (None: not measured)."""

    collection: Collection
    candidates: Sequence[Candidates]
    logits: Sequence[Floats] | None
    maxsim_ratio: float


@dataclass(frozen=True, slots=True)
class Setting:
    """A first-stage list (`bm25`, `dense`, `hybrid`), the signals its candidates carry, and the arm's own score."""

    first_stage: str
    signals: tuple[str, ...]
    arm: str | None


def late_interaction(candidates: Candidates, ratio: float) -> Floats:
    """The raw score of the late-interaction arm: `0.5 * cosine + 0.5 * ratio * MaxSim`."""
    score: Floats = 0.5 * candidates.cosine + 0.5 * ratio * candidates.maxsim
    return score


def ndcg(measured: Measured, first_stage: str, weights: Weights, k: int = CHOICE_K) -> PerQuery:
    """nDCG@10 of every query when the first `k` of the list are reordered by the weighted sum of z-scores.

    Without weights the list is left as it is. Raises ValueError when `ce` is weighted but was not measured.
    """
    run = {}
    for row, query in enumerate(measured.collection.query_ids):
        candidates = measured.candidates[row]
        listed = candidates.lists[first_stage]
        scored = listed[:k]
        if len(scored) and weights:
            fused = sum(w * z(_column(measured, row, name, scored)) for name, w in weights.items())
            scored = scored[np.argsort(-np.asarray(fused), kind="stable")]
        documents = candidates.documents[np.concatenate([scored, listed[k:]])]
        run[query] = [measured.collection.document_ids[int(d)] for d in documents]
    return np.array(list(ndcg_at_10(measured.collection.qrels, run).values()))


def _column(measured: Measured, row: int, name: str, scored: NDArray[np.int64]) -> Floats:
    candidates = measured.candidates[row]
    if name == "rank":
        return 1.0 / np.arange(1, len(scored) + 1, dtype=np.float32)
    if name == "ce":
        if measured.logits is None:
            raise ValueError("the cross-encoder was not measured: evaluate with its model in place")
        return measured.logits[row][scored]
    if name == "li":
        return late_interaction(candidates, measured.maxsim_ratio)[scored]
    return {"bm25": candidates.bm25, "dense": candidates.cosine}[name][scored]


def macro(values: Sequence[PerQuery]) -> float:
    """Unweighted mean over collections of the mean over queries."""
    return float(np.mean([v.mean() for v in values]))


def compare(new: Sequence[PerQuery], base: Sequence[PerQuery]) -> Interval:
    """Macro difference with its paired bootstrap interval."""
    return macro_bootstrap(list(zip(new, base, strict=True)))


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Weights for one setting and what they gain over first-stage order at each of KS.

    `gains` are measured leave-one-collection-out: on each collection with the weights that are best on the others;
    `weights` are the best on all of them.
    """

    setting: Setting
    weights: dict[str, float]
    gains: dict[int, Interval]


def recommend(measured: Sequence[Measured], setting: Setting) -> Recommendation:
    """Chooses among GRID weights by macro nDCG@10 at k = CHOICE_K; the arm's own weight is 1 (SIGNALS: the first's)."""
    choices = list(_grid(setting))
    table = np.array([[ndcg(m, setting.first_stage, w).mean() for m in measured] for w in choices])
    best = choices[int(np.argmax(table.mean(axis=1)))]
    held_out = [choices[int(np.argmax(np.delete(table, i, axis=1).mean(axis=1)))] for i in range(len(measured))]
    base = [ndcg(m, setting.first_stage, {}) for m in measured]
    gains = {
        k: compare([ndcg(m, setting.first_stage, w, k) for m, w in zip(measured, held_out, strict=True)], base)
        for k in KS
    }
    return Recommendation(setting, best, gains)


def _grid(setting: Setting) -> list[dict[str, float]]:
    names = [*setting.signals, "rank"]
    fixed = {setting.arm: 1.0} if setting.arm else {}
    found = []
    for values in product(GRID, repeat=len(names)):
        weights = fixed | {name: value for name, value in zip(names, values, strict=True) if value}
        # z-scores are fused, so only proportions matter: without an arm one of the signals has to have weight 1.
        if weights and (setting.arm or 1.0 in values):
            found.append(weights)
    return found
