"""Judged lists and latency samples of one corpus -> the profile that its requests are decided with."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from router.arms import Strategy
from router.latency import LatencyPrior
from router.policy import MAX_HARM
from router.profile import FORMAT, SIGNALS_ARM, TraitSlope
from sidecar.calibrate.fit_arm import ArmFit, credited_curve, fit_arm
from sidecar.calibrate.latency_fit import latency_prior
from sidecar.calibrate.pooled import Pooled, PooledCollection, PooledGain
from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.shrink import estimate
from sidecar.calibrate.trait_fit import TraitFit, fit_traits

KS: Final = (10, 25, 50, 100, 200)
FRUGAL_SHARE: Final = 0.1
MOST_GAIN_PER_SECOND: Final = 0.5
_MOST_SIGNALS: Final = 3  # of which every combination is fitted; of more, each alone and all together
# Fusing the signals is arithmetic in the sidecar itself; the router is told its time with every request.
_SIGNALS_LATENCY: Final = LatencyPrior(0.05, 0.0, 1.5)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the fit found, for people: every arm with every set of signals, also those that stay off; and, for every set
    of signals, whether the queries' traits predict gains."""

    queries: int
    arms: tuple[ArmFit, ...]
    min_gain_per_second: float
    traits: tuple[TraitFit, ...]

    def find(self, arm: str, signals: str) -> ArmFit | None:
        """One of ``arms``; ``arm`` is ``signals`` for SIGNALS."""
        return next((one for one in self.arms if (one.arm, one.signals) == (arm, signals)), None)


def fit_profile(
    lists: Sequence[JudgedList],
    samples: Sequence[LatencySample],
    *,
    corpus: str,
    strategies: Mapping[str, Strategy],
    ks: Sequence[int] = KS,
    pooled: Pooled | None = None,
    signals: Sequence[str] | None = None,
    min_gain_per_second: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], Fitted]:
    """The profile, ready for `json.dumps` and `router.profile.parse`, and what was found on the way.

    ``strategies`` are the rerankers to fit; all of ``lists`` have their raw scores. Weights are chosen on halves of the
    queries and gains measured on the other halves (`sidecar.calibrate.weights`), then shrunk towards those in
    ``pooled`` (None: of no other collection). ``signals`` are the sets to fit for, as keys of a profile; None takes all
    that requests may come with. ``min_gain_per_second`` is the nDCG@10 that another second has to add; None takes
    `frugal_rate`. The same arguments give the same profile. Raises ValueError for fewer than two lists, or a reranker
    without raw scores or samples.
    """
    _check(lists, samples, strategies)
    names = sorted({name for judged in lists for name in judged.signals})
    # One generator for each fit, so that no arm's result depends on which others there are.
    arms = tuple(
        fit
        for used in (signal_sets(names) if signals is None else signals)
        for arm in (SIGNALS_ARM, *strategies)
        if (fit := fit_arm(lists, arm, used, ks, pooled or Pooled(), np.random.default_rng(seed))) is not None
    )
    arms = tuple(_credited(fit, arms) for fit in arms)
    if min_gain_per_second is None:
        min_gain_per_second = frugal_rate(arms, samples, "+".join(names))
    fitted = Fitted(len(lists), arms, min_gain_per_second, _traits(lists, arms, seed))
    latencies = {name: latency_prior([s for s in samples if s.reranker == name]) for name in strategies}
    return _profile(fitted, corpus, strategies, latencies, names, ks), fitted


def pooled_collection(name: str, documents_digest: str, fits: Sequence[tuple[str, ArmFit]]) -> PooledCollection:
    """What a collection can teach others: ``fits`` with the signals that their candidates carried."""
    gains = []
    for carried, fit in fits:
        for place, k in enumerate(fit.ks):
            mean, variance = estimate(fit.gains[:, place])
            gains.append(PooledGain(carried, fit.arm, fit.signals, k, round(mean, 5), round(variance, 8)))
    return PooledCollection(name, documents_digest, len(fits[0][1].gains), tuple(gains))


def signal_sets(names: Sequence[str]) -> list[str]:
    """The sets of signals that requests may come with, as keys of a profile; "" is none of them."""
    if len(names) > _MOST_SIGNALS:
        chosen: list[tuple[str, ...]] = [(), *((name,) for name in names), tuple(names)]
    else:
        chosen = [subset for size in range(len(names) + 1) for subset in itertools.combinations(names, size)]
    return ["+".join(sorted(subset)) for subset in chosen]


def frugal_rate(arms: Sequence[ArmFit], samples: Sequence[LatencySample], signals: str) -> float:
    """nDCG@10 that another second has to add: a share of what the best-paying model adds per second of its own.

    Returns diminish: the last milliseconds of an arm may well be worth less than the first ones, but not next to
    nothing. The upper bound keeps a very fast arm from shutting out a slower one that is much better.
    """
    best = 0.0
    for fit in arms:
        if fit.arm == SIGNALS_ARM or fit.signals != signals:
            continue
        for k, gain, lower in fit.curve.points:
            ms = _typical_ms([sample for sample in samples if (sample.reranker, sample.rerank_k) == (fit.arm, k)])
            if ms is not None and lower >= -MAX_HARM:
                best = max(best, gain / ms * 1000.0)
    return round(min(FRUGAL_SHARE * best, MOST_GAIN_PER_SECOND), 4)


def _credited(fit: ArmFit, arms: Sequence[ArmFit]) -> ArmFit:
    """A model is credited with more than SIGNALS, which is next to free, only where it is shown to be better."""
    free = next((one for one in arms if (one.arm, one.signals) == (SIGNALS_ARM, fit.signals)), None)
    return (
        fit if free is None or not free.on or fit.arm == SIGNALS_ARM else replace(fit, curve=credited_curve(fit, free))
    )


def _traits(lists: Sequence[JudgedList], arms: Sequence[ArmFit], seed: int) -> tuple[TraitFit, ...]:
    found = []
    for used in dict.fromkeys(fit.signals for fit in arms):
        own = [fit for fit in arms if fit.signals == used]
        found.append(fit_traits(lists, own, np.random.default_rng(seed)))
    return tuple(fit for fit in found if fit is not None)


def _typical_ms(samples: Sequence[LatencySample]) -> float | None:
    """Median of the warm ones, if there are any: that is how documents arrive once a sidecar has run for a while."""
    warm = [sample.stage_ms for sample in samples if sample.warm]
    values = warm or [sample.stage_ms for sample in samples]
    return max(1e-3, statistics.median(values)) if values else None


def _profile(
    fitted: Fitted,
    corpus: str,
    strategies: Mapping[str, Strategy],
    latencies: Mapping[str, LatencyPrior],
    names: Sequence[str],
    ks: Sequence[int],
) -> dict[str, Any]:
    known = {SIGNALS_ARM: Strategy.SIGNALS, **strategies}
    arms = {
        name: _arm(
            strategy,
            latencies.get(name, _SIGNALS_LATENCY),
            [fit for fit in fitted.arms if fit.arm == name],
            {found.signals: found.slopes[name] for found in fitted.traits if name in found.slopes},
        )
        for name, strategy in known.items()
    }
    return {
        "format": FORMAT,
        "corpus": corpus,
        "rerank_ks": list(ks),
        "min_gain_per_second": fitted.min_gain_per_second,
        "known_signals": list(names),
        "about": {
            "queries": fitted.queries,
            "recommended_k": {f"{fit.arm} ({fit.signals or 'no signals'})": fit.recommended_k for fit in fitted.arms},
            "gains": "nDCG@10 on queries that the weights were not chosen on, shrunk towards other collections' for "
            + (", ".join(sorted({fit.arm for fit in fitted.arms if fit.pooled})) or "no arm")
            + "; the third figure is one standard deviation below",
            "traits": [found.words for found in fitted.traits],
        },
        "arms": arms,
    }


def _arm(
    strategy: Strategy,
    latency: LatencyPrior,
    fits: Sequence[ArmFit],
    slopes: Mapping[str, Mapping[str, TraitSlope]],
) -> dict[str, Any]:
    arm = {
        "strategy": strategy.value,
        "latency": {
            "base_ms": round(latency.base_ms, 4),
            "ms_per_token": round(latency.ms_per_token, 6),
            "spread": round(latency.spread, 3),
        },
        "gains": {fit.signals: {"points": [list(point) for point in fit.curve.points]} for fit in fits},
        "weights": {fit.signals: _fusion(fit) for fit in fits},
    }
    if slopes:
        arm["traits"] = {used: {name: list(own) for name, own in by.items()} for used, by in slopes.items()}
    return arm


def _fusion(fit: ArmFit) -> dict[str, Any]:
    signals = dict(fit.weights.signals)
    return {"signals": signals} if fit.arm == SIGNALS_ARM else {"rerank": fit.weights.rerank, "signals": signals}


def _check(lists: Sequence[JudgedList], samples: Sequence[LatencySample], strategies: Mapping[str, Strategy]) -> None:
    if len(lists) < 2:
        raise ValueError(f"{len(lists)} judged lists: a fit needs two at least, and some tens to be of use")
    for name in strategies:
        missing = sum(name not in judged.raw for judged in lists)
        if missing:
            raise ValueError(f"reranker {name!r} has no raw scores in {missing} of {len(lists)} judged lists: sweep it")
        if not any(sample.reranker == name for sample in samples):
            raise ValueError(f"reranker {name!r} has no latency samples: measure it")
