"""The built-in profile: what a corpus that nobody has calibrated is decided with.

Weights are chosen on whole collections, each counting the same; the gain of every collection is measured with weights
chosen on the others. So the curve says what an unknown corpus gains on average, and its lower end is one standard error
of that average below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from router.profile import FORMAT, SIGNALS_ARM
from sidecar.calibrate.fit import KS
from sidecar.calibrate.fit_arm import columns_of, grid_of, measurable, weights_of
from sidecar.calibrate.make.measure import Measured
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.calibrate.surface import first_stage_ndcg, surface
from sidecar.calibrate.weights import bagged_choice

_WEIGHTS_FROM_K: Final = 25
_DENSE_DEPTH: Final = 100

_Lists: TypeAlias = Sequence[Sequence[JudgedList]]
"""By collection, then by query."""


def profile(measured: Sequence[Measured], latency: Mapping[str, Any], min_gain_per_second: float) -> dict[str, Any]:
    """Ready for `json.dumps`. ``latency`` are priors by arm, for machines that have not measured their own.

    Raises ValueError for fewer than three collections.
    """
    if len(measured) < 3:
        raise ValueError(f"{len(measured)} collections: three at least are needed to choose on some, check on others")
    strategies = {SIGNALS_ARM: "signals", **{name: one.value for name, one in measured[0].strategies.items()}}
    # By signals that a request carries: the first stages that it may come from.
    bm25 = [one.lists["bm25"] for one in measured]
    hybrid = [one.lists["hybrid"] for one in measured]
    dense = [[_by_dense(judged) for judged in lists] for lists in hybrid]
    origins: dict[str, Sequence[_Lists]] = {
        "": (bm25, hybrid),
        "bm25": (bm25,),
        "dense": (dense,),
        "bm25+dense": (hybrid,),
    }
    arms: dict[str, Any] = {}
    for arm, strategy in strategies.items():
        gains: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        for signals, stages in origins.items():
            if found := _fit(arm, signals, stages):
                gains[signals], weights[signals] = found
        arms[arm] = {"strategy": strategy, "latency": latency[arm], "gains": gains, "weights": weights}
    names = ", ".join(one.collection.name for one in measured)
    return {
        "format": FORMAT,
        "corpus": "default",
        "rerank_ks": list(KS),
        "min_gain_per_second": min_gain_per_second,
        "known_signals": ["bm25", "dense"],
        "about": {
            "source": f"macro nDCG@10 over {len(measured)} public collections ({names}), top k of BM25, dense or "
            "hybrid first stages reordered",
            "gains": "each collection with weights chosen on the others; the third figure is one standard error below",
            "made_by": "python -m sidecar.calibrate.make --collections FOLDER",
            "dense": "cosine of minilm-l6: with another dense model calibrate anew",
            "no_signals": "the smaller of the gains over a BM25 and over a hybrid first stage",
            "latency": "one thread of an AMD EPYC at 2 GHz without VNNI; the level is replaced by each machine's own "
            "warm-up",
        },
        "arms": arms,
    }


def _fit(arm: str, signals: str, stages: Sequence[_Lists]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(gains, weights) of one arm; of several first stages the smaller gain, with weights chosen on all of them."""
    columns = columns_of(arm, signals)
    if not columns:
        return None
    grid = grid_of(columns)
    ks = measurable([judged for lists in stages[0] for judged in lists], arm, KS)
    # [stages, collections, ks, weights]
    values = np.array([[_means(lists, columns, arm, grid, ks) for lists in stage] for stage in stages])
    if not values.any():
        return None
    deep = [place for place, k in enumerate(ks) if k >= _WEIGHTS_FROM_K]
    target = values[:, :, deep].mean(axis=(0, 2))
    rng = np.random.default_rng(0)
    row = grid[bagged_choice(target, grid, rng)]
    others = [np.delete(target, one, axis=0) for one in range(len(target))]
    unseen = np.stack([values[:, one, :, bagged_choice(rest, grid, rng)] for one, rest in enumerate(others)], axis=1)
    mean = unseen.mean(axis=1)
    error = unseen.std(axis=1, ddof=1) / np.sqrt(unseen.shape[1])
    points = []
    for place, k in enumerate(ks):
        worst = int(mean[:, place].argmin())
        gain, below = float(mean[worst, place]), float(error[worst, place])
        points.append([k, round(gain, 4), round(gain - below, 4)])
    weights = weights_of(columns, row)
    fusion: dict[str, Any] = {} if arm == SIGNALS_ARM else {"rerank": weights.rerank}
    return {"points": points}, {**fusion, "signals": dict(weights.signals)}


def _means(lists: Sequence[JudgedList], columns: Sequence[str], arm: str, grid: Floats, ks: Sequence[int]) -> Floats:
    gains: Floats = (surface(lists, columns, arm, grid, ks) - first_stage_ndcg(lists)[:, None, None]).mean(axis=0)
    return gains


def _by_dense(judged: JudgedList) -> JudgedList:
    """A dense first stage's list: the candidates of the hybrid one by cosine. Its best are among them."""
    order = np.argsort(-judged.signals["dense"], kind="stable")[:_DENSE_DEPTH]
    return replace(
        judged,
        ids=tuple(judged.ids[place] for place in order),
        lengths=tuple(judged.lengths[place] for place in order),
        signals={"dense": judged.signals["dense"][order]},
        raw={name: values[order] for name, values in judged.raw.items()},
    )
