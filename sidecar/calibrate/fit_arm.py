"""One arm with one set of signals: its fusion weights, what they gain on unseen queries, and what to believe of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from router.gain import read_curve
from router.policy import MAX_HARM
from router.profile import RANK_SIGNAL, SIGNALS_ARM, FusionWeights, GainCurve, GainPoint
from sidecar.calibrate.pooled import Pooled
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.calibrate.shrink import estimate, shrink
from sidecar.calibrate.surface import RERANK, first_stage_ndcg, simplex, surface
from sidecar.calibrate.weights import bagged_choice, held_out

SHOWN: Final = 2.0
"""Standard errors by which a model has to be better than SIGNALS on the same queries."""
_WEIGHTS_FROM_K: Final = 25  # weights are chosen for ten places to fill from more than ten candidates
_STEPS: Final = {1: 1, 2: 8, 3: 8}  # of the simplex, by columns; finer than the data can tell apart
_FEWER_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class ArmFit:
    """``gains`` [queries, ks] are nDCG@10 over first-stage order, on queries that the weights were not chosen on.

    ``curve`` is what the profile says: those gains shrunk towards other collections' (if ``pooled``), with lower ends.
    ``recommended_k`` is the smallest k whose mean is within one paired standard error of the best k's.
    """

    arm: str
    signals: str
    ks: tuple[int, ...]
    gains: Floats
    weights: FusionWeights
    curve: GainCurve
    recommended_k: int
    pooled: bool

    @property
    def on(self) -> bool:
        """Whether the router may take it at some k, by the rule of `router.policy.choose`."""
        read = read_curve(self.curve, tuple(point.k for point in self.curve.points), self.arm != SIGNALS_ARM)
        return any(gain > 0.0 and lower >= -MAX_HARM for gain, lower in read)


def fit_arm(
    lists: Sequence[JudgedList], arm: str, signals: str, ks: Sequence[int], pooled: Pooled, rng: np.random.Generator
) -> ArmFit | None:
    """Fit on ``lists``; ``arm`` is a key of their ``raw``, or ``signals``. None where it changes no order.

    ``ks`` ascend; those beyond the deepest candidate that was scored are left out.
    """
    columns = columns_of(arm, signals)
    if not columns:
        return None
    measured = measurable(lists, arm, ks)
    grid = grid_of(columns)
    values = surface(lists, columns, arm, grid, measured) - first_stage_ndcg(lists)[:, None, None]
    if not values.any():
        return None
    deep = deep_places(measured)
    gains = held_out(values, grid, deep, rng)
    best = grid[bagged_choice(values[:, deep].mean(axis=1), grid, rng)]
    carried = "+".join(sorted(lists[0].signals))
    points, found = [], False
    for place, k in enumerate(measured):
        towards = pooled.prior(carried, arm, signals, k)
        belief = shrink(estimate(gains[:, place]), towards)
        points.append(GainPoint(k, round(belief.mean, 5), min(round(belief.mean, 5), round(belief.lower, 5))))
        found = found or towards is not None
    return ArmFit(
        arm=arm,
        signals=signals,
        ks=measured,
        gains=gains,
        weights=weights_of(columns, best),
        curve=GainCurve(tuple(points)),
        recommended_k=recommended_k(gains, measured),
        pooled=found,
    )


def credited_curve(fit: ArmFit, free: ArmFit) -> GainCurve:
    """The curve of ``fit``, at no k higher than SIGNALS' (``free``) where it is not better by `SHOWN` standard errors.

    The errors are those of the paired difference on held-out queries: its gain is doubtful, the model's time is not.
    """
    points = []
    for place, point in enumerate(fit.curve.points):
        more = fit.gains[:, place] - free.gains[:, -1]
        most = free.curve.points[-1]
        if more.mean() <= SHOWN * more.std(ddof=1) / np.sqrt(len(more)) and point.gain > most.gain:
            point = GainPoint(point.k, most.gain, min(point.lower, most.gain))
        points.append(point)
    return GainCurve(tuple(points))


def deep_places(ks: Sequence[int]) -> list[int]:
    """Places in ``ks`` (ascending) of those that fill ten places from enough candidates; the last one at least."""
    return [place for place, k in enumerate(ks) if k >= _WEIGHTS_FROM_K] or [len(ks) - 1]


def recommended_k(gains: Floats, ks: Sequence[int]) -> int:
    """The smallest of ``ks`` whose mean of ``gains`` [queries, ks] is within one standard error of the best one's.

    The error is that of the paired difference (the one-standard-error rule of Breiman et al., Classification and
    Regression Trees, 1984, on differences).
    """
    best = int(gains.mean(axis=0).argmax())
    for place, k in enumerate(ks):
        lost = gains[:, best] - gains[:, place]
        if lost.mean() <= lost.std(ddof=1) / np.sqrt(len(lost)):
            return k
    return ks[best]


def columns_of(arm: str, signals: str) -> list[str]:
    """What an arm's weights belong to, as in `surface`; nothing where there is nothing to weigh."""
    names = [name for name in signals.split("+") if name]
    if arm == SIGNALS_ARM:
        # One signal has nothing to be weighed against but the order that came with it.
        return [*names, RANK_SIGNAL] if len(names) == 1 else names
    return [RERANK, *(names or [RANK_SIGNAL])]


def grid_of(columns: Sequence[str]) -> Floats:
    """The weightings that are tried: [m, columns]."""
    return simplex(len(columns), _STEPS.get(len(columns), _FEWER_STEPS))


def measurable(lists: Sequence[JudgedList], arm: str, ks: Sequence[int]) -> tuple[int, ...]:
    """Those of ``ks`` up to the deepest candidate that was scored; the first one at least."""
    deepest = max((_depth(judged, arm) for judged in lists), default=0)
    return tuple(k for k in ks if k <= deepest) or tuple(ks[:1])


def _depth(judged: JudgedList, arm: str) -> int:
    if arm == SIGNALS_ARM:
        return len(judged.ids)
    scored = np.flatnonzero(np.isfinite(judged.raw[arm]))
    return int(scored[-1]) + 1 if scored.size else 0


def weights_of(columns: Sequence[str], row: Floats) -> FusionWeights:
    """A row of the grid as a profile states it; what weighs nothing is left out."""
    shares = {name: round(float(share), 4) for name, share in zip(columns, row, strict=True) if share > 0.0}
    return FusionWeights(shares.pop(RERANK, 0.0), shares)
