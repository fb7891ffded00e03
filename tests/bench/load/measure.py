"""Finds the capacity, then puts a sidecar under a series of rates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from millirank import AsyncClient

from tests.bench import processes
from tests.bench.arms import settle
from tests.bench.collector import Collector
from tests.bench.connection import connect
from tests.bench.load import meters
from tests.bench.load.generator import Forced, Kind, Seen, send
from tests.bench.load.summary import Summary, recovery_s, summarise
from tests.bench.load.traffic import CANDIDATES, Arrival, Rate, Traffic
from tests.bench.progress import Steps
from tests.bench.report import BenchError

T = TypeVar("T")

RERANKER = "tiny-cross-encoder"
FACTORS = (0.5, 1.0, 2.0, 5.0, 10.0)
STEP = (1.0, 10.0, 1.0)
# Capacity is what can be computed, so its requests have time to wait for their turn.
_CAPACITY_BUDGET_MS = 1000.0
_COMPLETE = 0.99
_TRIALS = 6
_MOST = 1.3  # times what one request after the other achieves
_WARM_UP_FACTOR = 0.5
LEFT_OUT = ("minilm-l6",)
# Nothing is kept: every request costs what it costs. Late interaction lives on what it keeps, so it is left out.
SETTINGS: Mapping[str, str] = {
    "MILLIRANK_CACHE__RESULTS_BYTES": "0",
    "MILLIRANK_CACHE__PAIRS_BYTES": "0",
    "MILLIRANK_RERANKERS__MINILM_L6__ENABLED": "false",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRIC_EXPORT_INTERVAL": str(meters.EXPORT_INTERVAL_MS),
}
# The sidecar as it is shipped, and the same with its work in other orders.
ORDERS: Mapping[str, Mapping[str, str]] = {
    "mandatory first": {},
    "edf": {"MILLIRANK_SCHEDULING__ORDER": "edf"},
    "fifo": {"MILLIRANK_SCHEDULING__ORDER": "fifo"},
}


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of one trial of the capacity, of one rate, of each part of the step, and of the requests before a rate
    that do not count: a sidecar that has waited for its turn has to find its pace again."""

    trial_s: float
    rate_s: float
    step_s: float
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One that serves, and what it exports to."""

    target: str
    process: subprocess.Popen[bytes]
    collector: Collector


@dataclass(frozen=True, slots=True)
class Step:
    """The rate rises and falls again."""

    seen: Sequence[Seen]
    summary: Summary
    rises_s: float
    falls_s: float
    recovery_s: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One order of work under all rates; ``rates`` by multiple of the capacity."""

    rates: Mapping[float, Summary]
    step: Step


@dataclass(frozen=True, slots=True)
class Cpus:
    """Who computes where: the generator must not take from the sidecar what the sidecar is measured by."""

    generator: frozenset[int]
    sidecar: frozenset[int]


def split_cpus() -> Cpus:
    """One CPU for the generator, the others for the sidecar with its children. Raises BenchError with only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BenchError("two CPUs are needed: one sends requests, one is measured")
    return Cpus(frozenset(usable[:1]), frozenset(usable[1:]))


class Bench:
    """Everything that the measurements share."""

    def __init__(self, folder: Path, steps: Steps, traffic: Traffic, durations: Durations, cpus: Cpus) -> None:
        self._folder = folder
        self._steps = steps
        self._traffic = traffic
        self._durations = durations
        self._cpus = cpus

    def capacity(self) -> float:
        """Requests a second: the highest rate at which a forced reranker completes `_COMPLETE` of its requests."""
        self._steps.begin("capacity", _TRIALS + 1)
        with self._sidecar("capacity", {}) as sidecar:
            self._steps.now("one request after the other")
            alone_per_s = self._on_loop(sidecar.target, self._alone)
            self._steps.done()
            low, high = 0.0, _MOST * alone_per_s
            for trial in range(_TRIALS):
                per_s = (max(low, 0.5 * alone_per_s) + high) / 2
                self._steps.now(f"{per_s:.1f} requests/s")
                if self._complete(sidecar.target, per_s, trial) >= _COMPLETE:
                    low = per_s
                else:
                    high = per_s
                self._steps.done()
        if low == 0.0:
            raise BenchError(f"{RERANKER} does not even complete half of the {alone_per_s:.1f} requests/s that it can")
        return low

    def runs(self, orders: Sequence[str], capacity: float, factors: Sequence[float]) -> Mapping[str, Run]:
        """Every rate in one order of work after the other, then the step: what else the machine does meanwhile meets
        all of them alike."""
        rates: dict[str, dict[float, Summary]] = {order: {} for order in orders}
        steps = {}
        with contextlib.ExitStack() as stack:
            self._steps.begin("sidecars", len(orders))
            sidecars = {}
            for order in orders:
                self._steps.now(order)
                sidecars[order] = stack.enter_context(self._sidecar(order, ORDERS[order]))
                self._steps.done()
            for number, factor in enumerate(factors, start=1):
                self._steps.begin(f"{factor:g} times", len(orders))
                rate = [Rate(factor * capacity, self._durations.rate_s)]
                for order, sidecar in sidecars.items():
                    self._steps.now(order)
                    _, rates[order][factor] = self._phase(sidecar, rate, capacity, seed=number)
                    self._steps.done()
            self._steps.begin("step " + " -> ".join(f"{factor:g}" for factor in STEP), len(orders))
            for order, sidecar in sidecars.items():
                self._steps.now(order)
                steps[order] = self._step(sidecar, capacity)
                self._steps.done()
        return {order: Run(rates[order], steps[order]) for order in orders}

    def _step(self, sidecar: Sidecar, capacity: float) -> Step:
        seconds = self._durations.step_s
        parts = [Rate(factor * capacity, seconds) for factor in STEP]
        seen, summary = self._phase(sidecar, parts, capacity, seed=100)
        return Step(seen, summary, seconds, 2 * seconds, recovery_s(seen, seconds, 2 * seconds))

    def _phase(
        self, sidecar: Sidecar, rates: Sequence[Rate], capacity: float, seed: int
    ) -> tuple[Sequence[Seen], Summary]:
        warm_up = self._traffic.arrivals([Rate(_WARM_UP_FACTOR * capacity, self._durations.warm_up_s)], seed=0)
        self._send(sidecar, warm_up)
        arrivals = self._traffic.arrivals(rates, seed)
        pid = sidecar.process.pid
        earlier, others_ms, began = meters.read(sidecar.collector), meters.others_ms(pid), time.monotonic()
        seen = self._send(sidecar, arrivals)
        others = (meters.others_ms(pid) - others_ms) / 1e3 / (time.monotonic() - began)
        later = meters.read(sidecar.collector)
        seconds = sum(rate.seconds for rate in rates)
        computed_ms = later.computed_ms - earlier.computed_ms
        return seen, summarise(seen, seconds, computed_ms, later.lag_p99_ms(earlier), others)

    def _send(self, sidecar: Sidecar, arrivals: Sequence[Arrival]) -> list[Seen]:
        return self._on_loop(sidecar.target, lambda client: send(client, arrivals, Forced(), self._steps.at))

    def _complete(self, target: str, per_s: float, trial: int) -> float:
        """Share of the requests at this rate of which every candidate was scored."""
        arrivals = self._traffic.arrivals(
            [Rate(per_s, self._durations.trial_s)], seed=1000 + trial, budgets_ms=(_CAPACITY_BUDGET_MS,)
        )
        forced = Forced(RERANKER, CANDIDATES)
        seen = self._on_loop(target, lambda client: send(client, arrivals, forced, self._steps.at))
        return sum(one.kind is Kind.FULL and one.scored == CANDIDATES for one in seen) / len(seen)

    async def _alone(self, client: AsyncClient) -> float:
        arrivals = self._traffic.arrivals([Rate(10.0, self._durations.trial_s)], seed=999)
        began = time.monotonic()
        done = 0
        for arrival in arrivals:
            if time.monotonic() - began > self._durations.trial_s:
                break
            await client.rerank(
                arrival.query, arrival.documents, budget_ms=_CAPACITY_BUDGET_MS, reranker=RERANKER, use_cache=False
            )
            done += 1
        return done / (time.monotonic() - began)

    def _on_loop(self, target: str, task: Callable[[AsyncClient], Awaitable[T]]) -> T:
        async def connected() -> T:
            async with AsyncClient(target) as client:
                if not await client.wait_until_ready():
                    raise BenchError("the sidecar is not SERVING")
                return await task(client)

        return asyncio.run(connected())

    @contextlib.contextmanager
    def _sidecar(self, name: str, settings: Mapping[str, str]) -> Iterator[Sidecar]:
        """A sidecar on its own CPUs with every model ready, and what it exports to."""
        with Collector() as collector, contextlib.ExitStack() as stack:
            with _on_cpus(self._cpus.sidecar):  # children inherit it
                everything = {**collector.environment, **SETTINGS, **settings}
                child = stack.enter_context(processes.sidecar(self._folder, name, everything))
            with _on_cpus(self._cpus.generator):
                with connect(child.tcp) as connection:
                    settle(connection, LEFT_OUT).require_all()
                yield Sidecar(child.tcp, child.process, collector)


@contextlib.contextmanager
def _on_cpus(cpus: frozenset[int]) -> Iterator[None]:
    """All threads of this process on these CPUs: some, such as gRPC's, are there already."""
    before = os.sched_getaffinity(0)
    _pin(cpus)
    try:
        yield
    finally:
        _pin(before)


def _pin(cpus: frozenset[int] | set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cpus)
