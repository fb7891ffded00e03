"""A profile that production has taught: shadow evaluations correct the weights and gains of an earlier calibration.

The labels are the reference's opinion. By them the reference itself would be perfect, and every other arm's gain would
be how much nearer to it an order comes, which is no gain in relevance. So the reference's own entry stays as it is,
and an arm that goes a share of the way from first-stage order to the reference's is credited with that share of what
the reference was measured (or is claimed) to gain::

    gain = (nDCG@10 of the arm - nDCG@10 of first-stage order) / (1 - nDCG@10 of first-stage order) * reference's gain

all three nDCG@10 by the reference's labels, the means over the queries. What shadow evaluation has not seen often
enough stays as well, and so do latencies: the sidecar learns them by itself.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from router.profile import SIGNALS_ARM, parse
from sidecar.calibrate.fit_arm import ArmFit, fit_arm
from sidecar.calibrate.from_shadow import ShadowError, ShadowLists
from sidecar.calibrate.pooled import Pooled
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.surface import first_stage_ndcg

FEWEST: Final = 30
"""Judged queries for an arm with a set of signals; its entry stays with fewer."""


@dataclass(frozen=True, slots=True)
class Change:
    """One arm's gain (nDCG@10, at its best k) with one set of signals: before (None: not calibrated) and after.

    ``share`` is how far it goes from first-stage order (0) to the reference's (1).
    """

    arm: str
    signals: str
    queries: int
    share: float
    before: float | None
    after: float


@dataclass(frozen=True, slots=True)
class Refitted:
    """The new profile as JSON has it, what changed, and in words what stayed for want of evaluations."""

    profile: dict[str, Any]
    changes: tuple[Change, ...]
    stayed: tuple[str, ...]


def refit(
    shadow: ShadowLists, profile: Mapping[str, Any], reference_gain: float | None = None, seed: int = 0
) -> Refitted:
    """``profile`` is an earlier one, as JSON has it; ``reference_gain`` (nDCG@10) stands in where that has not measured
    the reference. The same arguments give the same profile.

    Raises ShadowError where nothing can be learnt: too few evaluations, or a reference whose gain nobody knows.
    """
    new = copy.deepcopy(dict(profile))
    reference = shadow.reference[0]
    changes: list[Change] = []
    stayed: list[str] = []
    for signals, lists in _by_signals(shadow.lists, profile["known_signals"]):
        worth = _worth(profile, reference, signals, reference_gain)
        if worth is None:
            stayed.append(f"signals {signals!r}: the profile has no gain of {reference!r} with these to compare with")
            continue
        for arm, entry in new["arms"].items():
            if arm == reference or (arm == SIGNALS_ARM and not signals):
                continue
            learnt = _learn(arm, signals, lists, entry, worth, profile["rerank_ks"], seed)
            if isinstance(learnt, Change):
                changes.append(learnt)
            else:
                stayed.append(learnt)
    if not changes:
        raise ShadowError(f"nothing to learn from {len(shadow.lists)} evaluations: {'; '.join(stayed)}")
    new["about"] = {
        **new.get("about", {}),
        "shadow": f"gains and weights of {', '.join(sorted({f'{each.arm} ({each.signals})' for each in changes}))} are "
        f"from {len(shadow.lists)} shadow evaluations by {reference} {shadow.reference[1]}",
    }
    parse(new, revision="")  # what is written can be read: its own mistakes are found here, not by the sidecar
    return Refitted(new, tuple(changes), tuple(stayed))


def _learn(
    arm: str,
    signals: str,
    lists: Sequence[JudgedList],
    entry: dict[str, Any],
    worth: tuple[float, float],
    ks: Sequence[int],
    seed: int,
) -> Change | str:
    """Correct one arm's ``entry`` in the profile; or leave it, and say why."""
    own = [each for each in lists if arm == SIGNALS_ARM or arm in each.raw]
    if len(own) < FEWEST:
        return f"{arm} with signals {signals!r}: {len(own)} evaluations, {FEWEST} are needed"
    fit = fit_arm(own, arm, signals, ks, Pooled(), np.random.default_rng(seed))
    distance = float(np.mean(1.0 - first_stage_ndcg(own)))
    known = entry["gains"].get(signals)
    if fit is not None and distance > 0.0:
        points = _credited(fit, distance, worth)
        entry["weights"][signals] = _weights(fit)
    elif known is not None:
        points = [[k, 0.0, 0.0] for k, _, _ in known["points"]]  # no order of it came any nearer
    else:
        return f"{arm} with signals {signals!r}: not calibrated, and it changes no order"
    entry["gains"][signals] = {"points": points}
    entry.get("traits", {}).pop(signals, None)  # slopes of gains that are no longer believed
    before, after = None if known is None else _best(known["points"]), _best(points)
    return Change(arm, signals, len(own), after / worth[0], before, after)


def _by_signals(lists: Sequence[JudgedList], known: Sequence[str]) -> Iterator[tuple[str, list[JudgedList]]]:
    groups: dict[str, list[JudgedList]] = defaultdict(list)
    for each in lists:
        groups["+".join(sorted(name for name in each.signals if name in known))].append(each)
    yield from sorted(groups.items())


def _worth(
    profile: Mapping[str, Any], reference: str, signals: str, claimed: float | None
) -> tuple[float, float] | None:
    """The reference's gain and its lower end at its best k."""
    if claimed is not None:
        return claimed, claimed
    curve = profile["arms"].get(reference, {}).get("gains", {}).get(signals)
    if curve is None:
        return None
    _, gain, lower = max(curve["points"], key=lambda point: float(point[1]))
    return (gain, lower) if gain > 0.0 else None


def _best(points: Sequence[Sequence[float]]) -> float:
    return max(float(gain) for _, gain, _ in points)


def _credited(fit: ArmFit, distance: float, worth: tuple[float, float]) -> list[list[float]]:
    """The fitted curve as shares of the reference's gain. The lower ends have the reference's uncertainty in them too:
    a share of its own lower end, where that is the smaller one."""
    gain, lower = worth
    points: list[list[float]] = []
    for k, own, own_lower in fit.curve.points:
        share, least = own / distance, own_lower / distance
        points.append([k, round(share * gain, 5), round(min(least * gain, least * lower), 5)])
    return points


def _weights(fit: ArmFit) -> dict[str, Any]:
    signals = dict(fit.weights.signals)
    return {"signals": signals} if fit.arm == SIGNALS_ARM else {"rerank": fit.weights.rerank, "signals": signals}
