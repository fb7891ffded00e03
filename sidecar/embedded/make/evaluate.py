"""From candidate scores to figures: nDCG@10 of fused orders, gains of fusion weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.calibrate.metrics import Interval, macro_bootstrap, ndcg_at_10
from sidecar.embedded.make.features import CROSS_ENCODER_DEPTH, Candidates, Collection
from sidecar.embedded.make.teacher import z

Floats = NDArray[np.float32]
Weights: TypeAlias = Mapping[str, float]
"""Weight of the z-score of `bm25`, `dense`, `rank` (reciprocal rank), `li` (late interaction), `ce`."""
PerQuery: TypeAlias = NDArray[np.float64]

KS = (10, 25, 50, 100)
USUAL_K = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """A collection with its candidates and the cross-encoder's logits for them."""

    collection: Collection
    candidates: Sequence[Candidates]
    logits: Sequence[Floats]
    maxsim_ratio: float


@dataclass(frozen=True, slots=True)
class Default:
    """Fusion weights of the built-in profile.

    `arm` is `li`, `ce` or None (SIGNALS), `signals` what the candidates carry, `first_stage` the list that is measured.
    """

    arm: str | None
    signals: tuple[str, ...]
    first_stage: str
    weights: Weights


def late_interaction(candidates: Candidates, ratio: float) -> Floats:
    """The raw score of the late-interaction arm: `0.5 * cosine + 0.5 * ratio * MaxSim`."""
    score: Floats = 0.5 * candidates.cosine + 0.5 * ratio * candidates.maxsim
    return score


def ndcg(measured: Measured, first_stage: str, weights: Weights, k: int = USUAL_K) -> PerQuery:
    """nDCG@10 of every query when the first `k` of the list are reordered by the weighted sum of z-scores.

    Without weights the list is left as it is.
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


def gains(measured: Sequence[Measured], default: Default) -> dict[int, Interval]:
    """Macro gain over first-stage order at each of KS that the arm was measured at."""
    found = {}
    for k in KS:
        if default.arm != "ce" or k <= CROSS_ENCODER_DEPTH:
            new, base = ([ndcg(m, default.first_stage, w, k) for m in measured] for w in (default.weights, {}))
            found[k] = compare(new, base)
    return found
