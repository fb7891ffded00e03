"""From what every policy gave to the tables and the figures that are followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.arms import Strategy
from router.profile import SIGNALS_ARM
from sidecar.calibrate.metrics import macro_bootstrap
from tests.bench.report import Row, Section, Spread
from tests.bench.router.outcomes import NONE
from tests.bench.router.policies import BUILT_IN_SUFFIX, FIXED_KS, ORACLE, RANDOM, ROUTER, SIGNALS_BUILT_IN, fixed_ks
from tests.bench.router.redraws import Results

FIGURES = (
    "macro_none",
    "macro_signals",
    "macro_router",
    "macro_best_fixed",
    "macro_oracle",
    "worst_collection_delta",
    "latency_share",
    "bm25_macro_none",
    "bm25_macro_router",
    "macro_signals_built_in",
    "macro_best_fixed_built_in",
    "latency_share_built_in",
)
"""Those without ``bm25_`` are of the hybrid first stage, those with ``_built_in`` of rivals without calibration."""
AS_GOOD = 0.002
"""nDCG@10 below the router's at which a fixed arm counts as equally good."""
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Macro:
    """Means over collections, each counting the same: nDCG@10 of every policy and its added ms."""

    ndcg: Mapping[str, float]
    ms: Mapping[str, float]


def macro(results: Results, stage: str) -> Macro:
    """Of one first stage."""
    tables = [table for (_, own), table in results.items() if own == stage]
    names = list(tables[0])
    return Macro(
        {name: _mean(float(table[name].per_query().mean()) for table in tables) for name in names},
        {name: _mean(table[name].mean_ms() for table in tables) for name in names},
    )


def fixed_arms(rerankers: Iterable[str], suffix: str = "") -> list[str]:
    """The policies that always take one reranker at one k."""
    return [f"{arm}@{k}{suffix}" for arm in rerankers for k in FIXED_KS]


def latency_share(found: Macro, fixed: Sequence[str]) -> float:
    """The router's added time over that of the cheapest fixed arm that is as good (`AS_GOOD`), or of the best one."""
    good = [name for name in fixed if found.ndcg[name] >= found.ndcg[ROUTER] - AS_GOOD]
    rival = min(good, key=lambda name: found.ms[name]) if good else max(fixed, key=lambda name: found.ndcg[name])
    return found.ms[ROUTER] / found.ms[rival]


def stage_section(results: Results, stage: str, rerankers: Mapping[str, Strategy]) -> Section:
    """One row for each policy: macro nDCG@10, its spread over redraws, the difference to NONE with its interval."""
    found = macro(results, stage)
    tables = {collection: table for (collection, own), table in results.items() if own == stage}
    deltas = {name: float((t[ROUTER].per_query() - t[NONE].per_query()).mean()) for name, t in tables.items()}
    rows = []
    for name in _order(rerankers):
        values = [[float(v) for v in np.nanmean(table[name].ndcg, axis=1)] for table in tables.values()]
        by_redraw = [_mean(row) for row in zip(*values, strict=True)]
        pairs = [(table[name].per_query(), table[NONE].per_query()) for table in tables.values()]
        gain = macro_bootstrap(pairs, samples=2000)
        behind = macro_bootstrap([(t[ROUTER].per_query(), t[name].per_query()) for t in tables.values()], samples=2000)
        rows.append(
            Row(
                name,
                {
                    "ndcg10": Spread(found.ndcg[name], min(by_redraw), max(by_redraw), len(by_redraw)),
                    "gain": Spread(gain.mean, gain.low, gain.high, 2),
                    "router_ahead": Spread(behind.mean, behind.low, behind.high, 2),
                    "added_ms": Spread(found.ms[name], found.ms[name], found.ms[name], 1),
                },
            )
        )
    own, built_in = fixed_arms(rerankers), fixed_arms(rerankers, BUILT_IN_SUFFIX)
    figures = {
        "macro_none": found.ndcg[NONE],
        "macro_signals": found.ndcg[SIGNALS_ARM],
        "macro_router": found.ndcg[ROUTER],
        "macro_best_fixed": max(found.ndcg[name] for name in own),
        "macro_oracle": found.ndcg[ORACLE],
        "worst_collection_delta": min(deltas.values()),
        "latency_share": latency_share(found, own),
        "macro_signals_built_in": found.ndcg[SIGNALS_BUILT_IN],
        "macro_best_fixed_built_in": max(found.ndcg[name] for name in built_in),
        "latency_share_built_in": latency_share(found, built_in),
    }
    if stage != "hybrid":
        figures = {f"{stage}_{name}": figures[name] for name in ("macro_none", "macro_router")}
    return Section(
        title=f"First stage {stage}: macro over {len(tables)} collections, half of the queries fitted, half tested",
        rows=rows,
        figures={name: round(value, _DIGITS) for name, value in figures.items()},
        notes=(
            "ndcg10: mean (lowest-highest redraw); gain: over none; router_ahead: the router's lead over this row "
            "(95 % bootstrap over queries, collections weighing the same)",
            "fixed arms and signals have the weights that the router has; 'built-in weights' is without calibration",
        ),
    )


def collection_section(results: Results, stage: str) -> Section:
    """One row for each collection: what the router, and what it chooses among, gave there."""
    rows = []
    for (collection, own), table in results.items():
        if own != stage:
            continue
        values = {}
        for name in (NONE, SIGNALS_ARM, ROUTER):
            values[name] = _one(float(table[name].per_query().mean()))
        gain = macro_bootstrap([(table[ROUTER].per_query(), table[NONE].per_query())], samples=2000)
        values["router_gain"] = Spread(gain.mean, gain.low, gain.high, 2)
        values["added_ms"] = _one(table[ROUTER].mean_ms())
        rows.append(Row(collection, values))
    return Section(title=f"First stage {stage}, by collection (nDCG@10)", rows=rows)


def _order(rerankers: Mapping[str, Strategy]) -> list[str]:
    fixed = [f"{arm}@{k}" for arm, strategy in rerankers.items() for k in fixed_ks(strategy)]
    without = [f"{name}{BUILT_IN_SUFFIX}" for name in fixed]
    return [NONE, SIGNALS_BUILT_IN, *without, SIGNALS_ARM, *fixed, RANDOM, ROUTER, ORACLE]


def _one(value: float) -> Spread:
    return Spread(value, value, value, 1)


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)
