"""Judged lists and latency samples with known properties, made from seeded random numbers; no model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from router.profile import Profile, parse
from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.report.build import Service
from sidecar.calibrate.report.readout import Source

CANDIDATES = 60
SERVICE = Service(
    default_ms=100.0,
    reserve_ms=2.0,
    max_micro_usd=10_000,
    strategies={"late": "late_interaction", "cross": "cross_encoder"},
    promotion_caps={},
)
SOURCE = Source(
    collection="made-up",
    documents=600,
    queries=40,
    first_stage="bm25",
    labels="made for the test",
    machine="none",
    made="2026-01-01",
    warnings=(),
)


def judged_lists(
    queries: int = 40, *, skill: Mapping[str, float], seed: int = 0, missed: float = 0.0
) -> list[JudgedList]:
    """Lists with 3 relevant documents each, of which ``missed`` (a share) are no candidates.

    ``skill`` by reranker: how many standard deviations above the others it scores relevant candidates; "bm25" and
    "dense" are signals, every other name has raw scores. The first-stage order is by the signal bm25.
    """
    rng = np.random.default_rng(seed)
    lists = []
    for number in range(queries):
        relevant = np.zeros(CANDIDATES, dtype=bool)
        relevant[: 3 - int((rng.random(3) < missed).sum())] = True
        scores = {name: rng.normal(size=CANDIDATES) + relevant * lift for name, lift in skill.items()}
        order = np.argsort(-scores["bm25"])
        scores = {name: column[order] for name, column in scores.items()}
        ids = tuple(f"q{number}-d{i}" for i in order)
        found = {f"q{number}-d{i}": 1 for i in np.flatnonzero(relevant)}
        lost = {f"q{number}-missed{i}": 1 for i in range(3 - len(found))}
        lists.append(
            JudgedList(
                query_id=f"q{number}",
                query=f"what is number {number}",
                ids=ids,
                lengths=(400,) * CANDIDATES,
                signals={name: scores[name] for name in ("bm25", "dense") if name in scores},
                raw={name: column for name, column in scores.items() if name not in ("bm25", "dense")},
                grades=found | lost,
            )
        )
    return lists


def latency_samples(
    paces: Mapping[str, float], ks: Sequence[int] = (10, 25, 50), *, requests: int = 20, seed: int = 0
) -> list[LatencySample]:
    """Requests of ``none`` (2 ms), ``signals`` (2.1 ms) and each reranker: 2 + 5 + pace * k ms, give or take 10 %.

    Cold ones take four times as long for ``late`` and the same otherwise. 10 tokens a document.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(requests):
        noise = 1 + 0.1 * rng.random()
        samples.append(LatencySample("none", 0, True, 2.0 * noise, 0.0, 0, 0, 0))
        for k in ks:
            samples.append(LatencySample("signals", k, True, 2.1 * noise, 0.0, 0, 0, 0))
            for name, pace in paces.items():
                for warm in (True, False):
                    model_ms = (5.0 + pace * k) * (1.0 if warm or name != "late" else 4.0) * noise
                    tokens = 10 * k * (1 if warm or name != "late" else 4)
                    samples.append(LatencySample(name, k, warm, 2.0 + model_ms, model_ms, tokens, k, 0))
    return samples


def profile(
    gains: Mapping[str, Sequence[tuple[int, float]]],
    *,
    lower: float | None = None,
    signals: str = "bm25",
    ms_per_token: float = 0.02,
) -> Profile:
    """A profile in which every arm weighs its own score and every signal alike; ``lower`` None: half the best gain."""
    names = signals.split("+")

    def arm(name: str, points: Sequence[tuple[int, float]]) -> dict[str, object]:
        floor = max(gain for _, gain in points) / 2 if lower is None else lower
        weights: dict[str, object] = {"signals": dict.fromkeys(names, 1.0)}
        return {
            "strategy": SERVICE.strategies.get(name, name),
            "latency": {"base_ms": 5.0, "ms_per_token": ms_per_token, "spread": 1.2},
            "gains": {signals: {"points": [[k, gain, min(gain, floor)] for k, gain in points]}},
            "weights": {signals: weights if name == "signals" else weights | {"rerank": 1.0}},
        }

    return parse(
        {
            "format": "millirank.profile/2",
            "corpus": "made-up",
            "rerank_ks": [10, 25, 50],
            "min_gain_per_second": 0.02,
            "known_signals": names,
            "arms": {name: arm(name, points) for name, points in gains.items()},
        },
        revision="abc",
    )
