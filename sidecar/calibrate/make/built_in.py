"""The built-in profile: what a corpus that nobody has calibrated is decided with.

Its weights are multiples of a quarter, chosen by hand to hurt no collection rather than to win on average: weights that
are best on five collections gain less on the sixth (a hybrid list's two signals: +.019 chosen, +.020 equal).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from router.profile import FORMAT, SIGNALS_ARM
from sidecar.calibrate.fit import KS
from sidecar.calibrate.fit_arm import measurable
from sidecar.calibrate.make.measure import Measured
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.calibrate.surface import RERANK, first_stage_ndcg, surface

WEIGHTS: Final[Mapping[str, Mapping[str, Mapping[str, float]]]] = {
    SIGNALS_ARM: {"bm25+dense": {"bm25": 1.0, "dense": 1.0}},
    "minilm-l6": {
        "": {RERANK: 1.0, "rank": 0.5},
        "bm25": {RERANK: 1.0, "bm25": 0.5},
        "dense": {RERANK: 1.0, "rank": 0.25},
        "bm25+dense": {RERANK: 1.0, "bm25": 1.0, "dense": 1.0},
    },
    "tiny-cross-encoder": {
        "bm25": {RERANK: 0.75, "bm25": 1.0},
        "dense": {RERANK: 0.25, "dense": 1.0},
        "bm25+dense": {RERANK: 0.25, "bm25": 1.0, "dense": 1.0},
    },
}
"""By arm and signals that came along."""
OFF: Final = frozenset({("tiny-cross-encoder", "dense"), ("tiny-cross-encoder", "bm25+dense")})
"""Weights without a gain. It has read the first candidates of a hybrid list only, which says nothing about those of a
dense one; and beside both signals it adds nothing to SIGNALS (see its card), which takes no time."""
OPTIMISM: Final = 0.9
"""Of the measured mean: the weights were chosen looking at these collections."""
_DENSE_DEPTH: Final = 100

_Lists: TypeAlias = Sequence[Sequence[JudgedList]]
"""By collection, then by query."""


def profile(measured: Sequence[Measured], latency: Mapping[str, Any], min_gain_per_second: float) -> dict[str, Any]:
    """Ready for `json.dumps`. ``latency`` are priors by arm, for machines that have not measured their own.

    A gain is the mean over collections, its lower end one standard error of that mean below. Raises ValueError for
    fewer than two collections.
    """
    if len(measured) < 2:
        raise ValueError(f"{len(measured)} collections say nothing about another one; two are needed at least")
    # By signals that a request carries: the first stages that it may come from.
    bm25 = [one.lists["bm25"] for one in measured]
    hybrid = [one.lists["hybrid"] for one in measured]
    dense = [[_by_dense(judged) for judged in lists] for lists in hybrid]
    stages: dict[str, Sequence[_Lists]] = {
        "": (bm25, hybrid),
        "bm25": (bm25,),
        "dense": (dense,),
        "bm25+dense": (hybrid,),
    }
    strategies = {SIGNALS_ARM: "signals", **{name: one.value for name, one in measured[0].strategies.items()}}
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
            "gains": f"{OPTIMISM} times the measured mean, because the weights were chosen on the same collections; "
            "the third figure is one standard error over collections below",
            "made_by": "python -m sidecar.calibrate.make --collections FOLDER",
            "dense": "cosine of minilm-l6: with another dense model calibrate anew",
            "no_signals": "the smaller of the gains over a BM25 and over a hybrid first stage",
            "latency": "one thread of an AMD EPYC at 2 GHz without VNNI; the level is replaced by each machine's own "
            "warm-up",
        },
        "arms": {
            arm: {
                "strategy": strategies[arm],
                "latency": latency[arm],
                "gains": {
                    signals: {"points": _points(arm, own, stages[signals])}
                    for signals, own in sets.items()
                    if (arm, signals) not in OFF
                },
                "weights": {signals: _fusion(own) for signals, own in sets.items()},
            }
            for arm, sets in WEIGHTS.items()
        },
    }


def _points(arm: str, weights: Mapping[str, float], stages: Sequence[_Lists]) -> list[list[float]]:
    """Of several first stages the smaller gain."""
    ks = measurable([judged for lists in stages[0] for judged in lists], arm, KS)
    row = np.array([list(weights.values())])
    # [stages, collections, ks]
    gains = OPTIMISM * np.array([[_mean(lists, list(weights), arm, row, ks) for lists in stage] for stage in stages])
    mean, error = gains.mean(axis=1), gains.std(axis=1, ddof=1) / np.sqrt(gains.shape[1])
    worst = mean.argmin(axis=0)
    return [
        [k, round(float(mean[worst[at], at]), 4), round(float(mean[worst[at], at] - error[worst[at], at]), 4)]
        for at, k in enumerate(ks)
    ]


def _mean(lists: Sequence[JudgedList], columns: Sequence[str], arm: str, row: Floats, ks: Sequence[int]) -> Floats:
    gains: Floats = (surface(lists, columns, arm, row, ks)[:, :, 0] - first_stage_ndcg(lists)[:, None]).mean(axis=0)
    return gains


def _fusion(weights: Mapping[str, float]) -> dict[str, Any]:
    signals = {name: weight for name, weight in weights.items() if name != RERANK}
    return {RERANK: weights[RERANK], "signals": signals} if RERANK in weights else {"signals": signals}


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
