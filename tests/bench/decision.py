"""What deciding costs: the router alone, and the whole plan of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from router.arms import Availability, State, Strategy, Work
from router.latency import LatencyEstimator, LatencyPrior, Pace
from router.policy import Decision, RerankerView, Routing, choose
from router.profile import FORMAT, Profile, parse
from router.traits import extract
from sidecar.assemble import build
from sidecar.messages import Candidate, Request
from sidecar.reranker_settings import OnnxCrossEncoder, OnnxLateInteraction
from sidecar.settings import load
from tests.bench.connection import quantile
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Row, Section, Spread

MODEL_ARMS = 20
PLANNED_CANDIDATES = 50

_RERANKERS = 4
_RERANK_KS = (10, 25, 50, 100)  # and all of the candidates: five arms for each reranker
_CANDIDATES = 200
_SIGNAL_SET = "bm25+dense"
_QUERY = "how to open a file for reading and writing"
_READY_TIMEOUT_S = 60.0


def measure(folder: Path, steps: Steps, *, rounds: int = 10, calls: int = 300) -> Section:
    """Median time of ``calls`` decisions and plans in each of ``rounds`` interleaved rounds.

    Raises BenchError when the sidecar's models don't load.
    """
    return asyncio.run(_measure(folder, steps, rounds, calls))


async def _measure(folder: Path, steps: Steps, rounds: int, calls: int) -> Section:
    steps.begin("decision", rounds + 1)
    steps.now("loading the models")
    settings = load(None, {"MILLIRANK_LISTEN__TCP": "", "MILLIRANK_LISTEN__UNIX": str(folder / "plan.sock")})
    sidecar = build(settings.model_copy(update={"linger_s": 0.0}), {})
    await sidecar.start()
    try:
        end = time.monotonic() + _READY_TIMEOUT_S
        while any(one.availability().state is State.WARMING for one in sidecar.rerankers.values()):
            if time.monotonic() > end:
                raise BenchError(f"the models are not loaded after {_READY_TIMEOUT_S:g} s")
            await asyncio.sleep(0.02)
        steps.done()
        decide = _decision_maker()
        request = _request()

        def plan() -> object:
            return sidecar.pipeline.explain(request, None, time.monotonic())

        choose_us, plan_us = [], []
        for number in range(rounds):
            steps.now(f"round {number + 1}")
            choose_us.append(_median_us(decide, calls))
            plan_us.append(_median_us(plan, calls))
            steps.done()
        off = [
            name
            for name, one in sidecar.rerankers.items()
            if isinstance(settings.rerankers[name], OnnxCrossEncoder | OnnxLateInteraction)
            and one.availability().state is State.OFF
        ]
        planned = len(sidecar.pipeline.explain(request, None, time.monotonic()).decision.considered)
    finally:
        await sidecar.stop()
    decision = Spread.of(choose_us)
    return Section(
        title="Deciding",
        rows=(
            Row(f"router.policy.choose, {MODEL_ARMS} model arms, NONE, SIGNALS", {"us": decision}),
            Row(f"the whole plan, {PLANNED_CANDIDATES} candidates", {"us": Spread.of(plan_us)}),
        ),
        figures={"decision_us": decision.median},
        notes=(
            f"medians of {calls} calls; median of {rounds} interleaved rounds (smallest-largest); in this process",
            f"the plan: budget, traits, digests, the work of every reranker, choose over {planned} arms, telemetry off"
            + (f"; switched off: {', '.join(off)}" if off else ""),
        ),
    )


def _median_us(call: Callable[[], object], calls: int) -> float:
    clock = time.perf_counter_ns
    taken = []
    for _ in range(calls):
        before = clock()
        call()
        taken.append((clock() - before) / 1e3)
    return quantile(taken, 0.5)


def _decision_maker() -> Callable[[], Decision]:
    """`choose` over `MODEL_ARMS` arms, all of which are eligible: none is dismissed early."""
    signals = [{"bm25": 20.0 - 0.05 * rank, "dense": 0.9 - 0.002 * rank} for rank in range(_CANDIDATES)]
    traits = extract(_QUERY, [600] * _CANDIDATES, signals)
    profile = _profile()
    views = [
        RerankerView(
            name=f"reranker-{number}",
            strategy=Strategy.LATE_INTERACTION,
            availability=Availability(State.READY),
            work=Work(tokens=(150 + number,) * _CANDIDATES, fixed_tokens=12),
            pace=_pace(number),
        )
        for number in range(_RERANKERS)
    ]

    def decide() -> Decision:
        return choose(
            traits=traits,
            spendable_ms=60_000.0,
            max_micro_usd=10_000,
            routing=Routing(),
            profile=profile,
            rerankers=views,
            signals_ms=0.8,
        )

    arms = sum(arm.reranker != "" for arm in decide().considered)
    if arms != MODEL_ARMS:
        raise BenchError(f"the decision looked at {arms} model arms instead of {MODEL_ARMS}; correct _RERANK_KS")
    return decide


def _pace(number: int) -> Pace:
    """What a reranker's estimator predicts after some samples."""
    estimator = LatencyEstimator(LatencyPrior(base_ms=2.0 + number, ms_per_token=0.01))
    for sample in range(100):
        estimator.observe(1000 + 10 * sample, 12.0 + number + 0.1 * sample, now=1.0)
    return estimator.pace(now=1.0)


def _profile() -> Profile:
    """Every reranker gains, the slower ones more; the curves are made up, only their shape costs time."""
    weights = {_SIGNAL_SET: {"rerank": 1.0, "signals": {"bm25": 0.5, "rank": 0.1}}}
    latency = {"base_ms": 2.0, "ms_per_token": 0.01, "spread": 1.5}
    arms: dict[str, object] = {
        f"reranker-{number}": {
            "strategy": "late_interaction",
            "latency": latency,
            "gains": {
                _SIGNAL_SET: {
                    "points": [[k, 0.02 * (number + 1) + 0.0001 * k, 0.01] for k in _RERANK_KS],
                }
            },
            "weights": weights,
        }
        for number in range(_RERANKERS)
    }
    fused = {"signals": {"bm25": 1.0, "dense": 1.0}}
    arms["signals"] = {
        "strategy": "signals",
        "latency": latency,
        "gains": {_SIGNAL_SET: {"points": [[10, 0.01, 0.005], [200, 0.02, 0.005]]}},
        "weights": {_SIGNAL_SET: fused},
    }
    return parse(
        {
            "format": FORMAT,
            "corpus": "bench",
            "rerank_ks": [*_RERANK_KS, _CANDIDATES],
            "min_gain_per_second": 0.1,
            "known_signals": ["bm25", "dense"],
            "arms": arms,
        },
        revision="bench",
    )


def _request() -> Request:
    """A hybrid first stage's candidates, 600 characters each, strategy AUTO, a budget that fits every arm."""
    text = "says what a passage of a manual says about files. " * 12
    return Request(
        request_id="bench",
        corpus="",
        query=_QUERY,
        candidates=tuple(
            Candidate(f"manual-{rank}", f"{rank} {text}", {"bm25": 20.0 - 0.1 * rank, "dense": 0.9 - 0.005 * rank})
            for rank in range(PLANNED_CANDIDATES)
        ),
        budget_ms=10_000.0,
    )
