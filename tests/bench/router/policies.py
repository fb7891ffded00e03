"""The calibrated router and what it has to beat, on one half of one collection's queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.arms import Strategy
from router.profile import SIGNALS_ARM, Profile, parse
from sidecar.calibrate.fit import fit_profile
from sidecar.calibrate.make.measure import Measured
from sidecar.calibrate.pooled import Pooled
from sidecar.calibrate.records import Floats, LatencySample
from sidecar.calibrate.report.orders import with_profile
from sidecar.calibrate.report.recommend import Router, arm_of, loads
from sidecar.settings import Settings
from tests.bench.router.outcomes import KS, NONE, AddedTime, Outcomes, place

BUDGET_MS = 500.0
FIXED_KS = (10, 20, 25, 50)
DEEP_KS = (100, 200)
ROUTER, RANDOM, ORACLE = "router", "random, same mean time", "oracle per query"
BUILT_IN_SUFFIX = ", built-in weights"
SIGNALS_BUILT_IN = f"{SIGNALS_ARM}{BUILT_IN_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What one policy gave every tested query: nDCG@10 and added ms, both [queries]."""

    ndcg: Floats
    ms: Floats


def try_half(
    measured: Measured,
    stage: str,
    samples: Sequence[LatencySample],
    known: Outcomes,
    time: AddedTime,
    halves: tuple[Sequence[int], Sequence[int]],
    pooled: Pooled,
) -> dict[str, Policy]:
    """Fit on the queries of ``halves[0]``, try every policy on those of ``halves[1]``; positions in the lists.

    Fixed arms and SIGNALS have the same fitted weights as the router, so that only the choice of the arm differs;
    "built-in" ones have the weights of the built-in profile, as without calibration.
    """
    fitted_on, tested = (list(half) for half in halves)
    lists = measured.lists[stage]  # type: ignore[index]
    data, fitted = fit_profile(
        # A query without candidates says nothing about how to order them.
        [lists[place] for place in fitted_on if lists[place].ids],
        samples,
        corpus=measured.collection.name,
        strategies=measured.strategies,
        pooled=pooled,
        signals=[known.signals],
    )
    profile = parse(data, revision="")
    weights = {fit.arm: fit.weights for fit in fitted.arms if fit.signals == known.signals}
    calibrated = {arm: known.of(arm, own)[tested] for arm, own in weights.items()}
    built_in = {arm: values[tested] for arm, values in known.built_in.items()}
    first_stage = known.first_stage[tested]
    count = len(tested)

    def fixed(values: Mapping[str, Floats], arm: str, k: int) -> Policy:
        if arm not in values:  # nothing to fuse: the order stays
            return Policy(first_stage, np.full(count, time.of(arm, k)))
        return Policy(values[arm][:, place(k)], np.full(count, time.of(arm, k)))

    found = {
        NONE: Policy(first_stage, np.zeros(count)),
        SIGNALS_ARM: fixed(calibrated, SIGNALS_ARM, KS[-1]),
        SIGNALS_BUILT_IN: fixed(built_in, SIGNALS_ARM, KS[-1]),
    }
    for arm, strategy in measured.strategies.items():
        for k in fixed_ks(strategy):
            found[f"{arm}@{k}"] = fixed(calibrated, arm, k)
            found[f"{arm}@{k}{BUILT_IN_SUFFIX}"] = fixed(built_in, arm, k)
    found[ROUTER] = _routed(measured, stage, samples, tested, profile, calibrated, first_stage, time)
    choices = [found[SIGNALS_ARM], *(found[f"{arm}@{k}"] for arm in measured.strategies for k in FIXED_KS)]
    found[RANDOM] = random_routing(found[NONE], choices, float(found[ROUTER].ms.mean()))
    found[ORACLE] = oracle([found[NONE], *choices])
    return found


def fixed_ks(strategy: Strategy) -> tuple[int, ...]:
    """Where a fixed arm is tried: as deep as it was scored."""
    return FIXED_KS if strategy is Strategy.CROSS_ENCODER else (*FIXED_KS, *DEEP_KS)


def _routed(
    measured: Measured,
    stage: str,
    samples: Sequence[LatencySample],
    tested: Sequence[int],
    profile: Profile,
    values: Mapping[str, Floats],
    first_stage: Floats,
    time: AddedTime,
) -> Policy:
    """Every query decided by `router.policy.choose` with the fitted profile, warm documents and `BUDGET_MS`."""
    settings = Settings().budget
    router = Router(
        loads=loads(samples, warm=True),
        max_documents={},
        default_ms=settings.default_ms,
        reserve_ms=settings.reserve_ms,
        max_micro_usd=settings.max_cost_micro_usd,
    )
    ndcg, ms = np.empty(len(tested)), np.empty(len(tested))
    for row, position in enumerate(tested):
        judged = measured.lists[stage][position]  # type: ignore[index]
        decision = router.decide(with_profile(judged, profile), profile, BUDGET_MS)
        arm, k = arm_of(decision)
        ndcg[row] = first_stage[row] if arm == NONE else values[arm][row, place(k)]
        ms[row] = time.of(arm, k)
    return Policy(ndcg, ms)


def random_routing(none: Policy, choices: Sequence[Policy], mean_ms: float) -> Policy:
    """The expectation of an arm drawn at random, or none, so often that the mean time is ``mean_ms``."""
    ndcg = np.mean([policy.ndcg for policy in choices], axis=0)
    ms = np.mean([policy.ms for policy in choices], axis=0)
    share = min(1.0, mean_ms / float(ms.mean()))
    return Policy(share * ndcg + (1 - share) * none.ndcg, share * ms)


def oracle(choices: Sequence[Policy]) -> Policy:
    """The best arm of every query, the fastest of equally good ones: what no router can know."""
    ndcg, ms = np.array([policy.ndcg for policy in choices]), np.array([policy.ms for policy in choices])
    best = np.lexsort((ms, -ndcg), axis=0)[0]
    rows = np.arange(ndcg.shape[1])
    return Policy(ndcg[best, rows], ms[best, rows])
