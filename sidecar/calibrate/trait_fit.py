"""Do the query's traits predict what an arm gains? Slopes for the profile where they do, and nothing where they do not.

Ridge regression of every arm's gain on the standardised traits (`router.traits.FIGURES`), the penalty fixed beforehand:
as if the traits were expected to explain a twentieth of the variance. Whether it predicts is asked of queries that it
was not fitted on, by whole queries: five-fold cross-validation, redrawn four times. The slopes of a set of signals are
kept for all arms or for none, and only if both hold:

- the squared errors of all arms' predicted gains are lower than the mean gain's by `SHOWN` standard errors, and
- taking for each query the arm with the highest predicted gain is better by one standard error than always taking the
  arm that is best on average.

The first alone keeps slopes that change nothing; the second alone keeps luck, where two arms are nearly equal. With
both, of 300 made-up collections in which gains had nothing to do with the queries none kept slopes, whether of 40, 100
or 300 queries; where one arm gained 0.2 more with questions and 0.2 less without, 93, 100 and 100 of 100 did (deviation
0.2; `tests/calibrate/test_fit_traits.py` makes such collections).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.gain import FARTHEST
from router.profile import TraitSlope
from router.traits import FIGURES, extract
from sidecar.calibrate.fit_arm import ArmFit, deep_places
from sidecar.calibrate.records import Floats, JudgedList

SHOWN: Final = 2.0
"""Standard errors by which predicted gains have to be nearer to the measured ones than the mean gain is."""
SHOWN_IN_DECISIONS: Final = 1.0
FEWEST: Final = 20
"""Queries; a fifth of fewer tests nothing."""
_FOLDS: Final = 5
_REDRAWS: Final = 4
_EXPECTED_SHARE: Final = 0.05  # of the variance


@dataclass(frozen=True, slots=True)
class TraitFit:
    """What was found for one set of signals.

    ``slopes`` by arm and trait; empty where they are not kept. ``explained``: the share of the gains' variance that all
    traits explain out of sample (negative: the mean is nearer), ``best`` the trait that explains most alone, and
    ``best_explained`` how much. ``decided`` is what decisions with the slopes gain in nDCG@10, with its standard error.
    """

    signals: str
    slopes: Mapping[str, Mapping[str, TraitSlope]]
    explained: float
    best: str
    best_explained: float
    decided: tuple[float, float]

    @property
    def words(self) -> str:
        """The finding for a person."""
        signals = f"with signals {self.signals}" if self.signals else "without signals"
        best = f"best alone: {self.best}, {100 * self.best_explained:+.1f} %"
        if not self.slopes:
            return f"No trait predicts gains {signals} ({best} of the variance out of sample; not kept)."
        gained, error = self.decided
        return (
            f"Traits predict gains {signals}: out of sample they explain {100 * self.explained:.1f} % of the variance "
            f"({best}), and decisions with them gain {gained:+.4f} ± {error:.4f} nDCG@10 more. The profile has their "
            "slopes."
        )


def fit_traits(lists: Sequence[JudgedList], fits: Sequence[ArmFit], rng: np.random.Generator) -> TraitFit | None:
    """For the arms in ``fits``, all with one set of signals and fitted on ``lists``.

    None where there is nothing to ask: no arm, fewer than `FEWEST` queries, or no trait that varies.
    """
    if not fits or len(lists) < FEWEST:
        return None
    names, figures = _varying(lists, fits[0].signals)
    if not names:
        return None
    gains = np.column_stack([fit.gains[:, deep_places(fit.ks)].mean(axis=1) for fit in fits])
    folds = list(_folds(len(lists), rng))
    nearer, spread, better = _held_out(figures, gains, folds)
    alone = [_explained(*_held_out(figures[:, [column]], gains, folds)[:2]) for column in range(len(names))]
    best = int(np.argmax(alone))
    kept = _errors_above_zero(nearer) > SHOWN and _errors_above_zero(better) > SHOWN_IN_DECISIONS
    line = _Line.of(figures, gains)
    return TraitFit(
        signals=fits[0].signals,
        slopes={fit.arm: _slopes(line, names, place) for place, fit in enumerate(fits)} if kept else {},
        explained=_explained(nearer, spread),
        best=names[best],
        best_explained=alone[best],
        decided=(float(better.mean()), _standard_error(better)),
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """Predicts gains [queries, arms] from figures [queries, traits]."""

    means: Floats
    deviations: Floats
    slopes: Floats  # [traits, arms], for one deviation
    gains: Floats  # [arms], those of a query with mean traits

    @classmethod
    def of(cls, figures: Floats, gains: Floats) -> _Line:
        """Ridge with penalty p / `_EXPECTED_SHARE` for p traits.

        The posterior mean of a regression whose slopes have, a priori, the variance that makes all of them together
        explain that share (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 3.4.1).
        """
        means, deviations = figures.mean(axis=0), figures.std(axis=0)
        deviations = np.where(deviations > 0.0, deviations, np.inf)  # a trait that does not vary here says nothing
        line = cls(means, deviations, np.zeros((figures.shape[1], gains.shape[1])), gains.mean(axis=0))
        z = line.standardised(figures)
        penalty = figures.shape[1] / _EXPECTED_SHARE * np.eye(figures.shape[1])
        slopes = np.linalg.solve(z.T @ z + penalty, z.T @ (gains - line.gains))
        return cls(means, deviations, slopes, line.gains)

    def standardised(self, figures: Floats) -> Floats:
        """As `router.gain.trait_gain` does it."""
        cut: Floats = np.clip((figures - self.means) / self.deviations, -FARTHEST, FARTHEST)
        return cut

    def predict(self, figures: Floats) -> Floats:
        predicted: Floats = self.gains + self.standardised(figures) @ self.slopes
        return predicted


def _varying(lists: Sequence[JudgedList], signals: str) -> tuple[list[str], Floats]:
    """The traits that differ between queries, and their figures [queries, traits], with only ``signals`` known."""
    used = [name for name in signals.split("+") if name]
    rows = []
    for judged in lists:
        columns = {name: judged.signals[name].tolist() for name in used}
        carried = [
            {name: column[place] for name, column in columns.items() if math.isfinite(column[place])}
            for place in range(len(judged.ids))
        ]
        traits = extract(judged.query, judged.lengths, carried)
        rows.append([figure(traits) for figure in FIGURES.values()])
    figures = np.array(rows, np.float64)
    varying = np.flatnonzero(np.ptp(figures, axis=0) > 0.0)
    return [list(FIGURES)[column] for column in varying], figures[:, varying]


def _folds(count: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(fitted, tested) rows; every query is tested `_REDRAWS` times."""
    for _ in range(_REDRAWS):
        shuffled = rng.permutation(count)
        for fold in range(_FOLDS):
            tested = shuffled[fold::_FOLDS]
            yield np.setdiff1d(shuffled, tested), tested


def _held_out(
    figures: Floats, gains: Floats, folds: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]
) -> tuple[Floats, Floats, Floats]:
    """For each query, on average over its tests: by how much the squared error is lower than that of the mean gains,
    that error of the mean gains, and by how much deciding by prediction is better than always taking the best arm."""
    nearer, spread, better = (np.zeros(len(gains)) for _ in range(3))
    for fitted, tested in folds:
        line = _Line.of(figures[fitted], gains[fitted])
        predicted = line.predict(figures[tested])
        plain = ((gains[tested] - line.gains) ** 2).sum(axis=1)
        spread[tested] += plain / _REDRAWS
        nearer[tested] += (plain - ((gains[tested] - predicted) ** 2).sum(axis=1)) / _REDRAWS
        better[tested] += (_taken(gains[tested], predicted) - _taken(gains[tested], line.gains)) / _REDRAWS
    return nearer, spread, better


def _taken(gains: Floats, predicted: Floats) -> Floats:
    """What the arm with the highest predicted gain gains, for each query; first-stage order if none is above 0."""
    with_none = np.column_stack([np.zeros(len(gains)), gains])
    best = np.broadcast_to(predicted, gains.shape).argmax(axis=1)
    hopeful = np.broadcast_to(predicted, gains.shape).max(axis=1) > 0.0
    taken: Floats = with_none[np.arange(len(gains)), np.where(hopeful, best + 1, 0)]
    return taken


def _explained(nearer: Floats, spread: Floats) -> float:
    return float(nearer.sum() / spread.sum()) if spread.any() else 0.0


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _errors_above_zero(values: Floats) -> float:
    error = _standard_error(values)
    return float(values.mean()) / error if error > 0.0 else 0.0


def _slopes(line: _Line, names: Sequence[str], arm: int) -> dict[str, TraitSlope]:
    return {
        name: TraitSlope(
            round(float(line.means[place]), 5),
            round(float(line.deviations[place]), 5),
            round(float(line.slopes[place, arm]), 5),
        )
        for place, name in enumerate(names)
    }
