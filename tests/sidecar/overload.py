"""Overload without a machine: the real router, scheduler and pipeline around a modelled worker, in virtual time.

Loop and worker share one CPU, as they do in a small container: while the loop reads a request or writes an answer, the
worker stands still. Figures are the same on every machine, which those of ``make bench-load`` are not.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from opentelemetry.trace import NoOpTracerProvider

from router import arms
from router.arms import Availability, State, Strategy
from sidecar.cache import ResultCache
from sidecar.estimates import Estimates
from sidecar.messages import Candidate, Degradation, Request
from sidecar.pipeline import Pipeline
from sidecar.planner import Planner
from sidecar.profile_watch import ProfileWatch
from sidecar.rerankers.base import Document, Identity, Limits, Scored, ScoreRequest
from sidecar.scheduler import Scheduler, Scheduling
from sidecar.settings import Mode, Settings
from tests.virtual_time import VirtualLoop, run

TOKENS, USEFUL = 120, 16
BUDGETS_MS = (50.0, 100.0, 200.0)
SPREAD = 0.12
READ_MS, WRITE_MS = 0.9, 0.4


@dataclass(frozen=True, slots=True)
class Work:
    """Requests of ``fewest`` to ``most`` candidates, for a model whose calls take ``call_ms`` and ``document_ms`` for
    each."""

    fewest: int
    most: int
    call_ms: float
    document_ms: float

    @property
    def capacity_per_s(self) -> float:
        """Requests that a worker and its loop can serve, each in calls of its own."""
        documents = (self.fewest + self.most) / 2
        return 1000.0 / (self.call_ms + documents * self.document_ms + READ_MS + WRITE_MS + 1.5)


# What `tiny-cross-encoder` takes on one slow core: 41.5 ms for 50 documents, so 22 requests/s with what the loop needs.
CPU = Work(fewest=50, most=50, call_ms=1.5, document_ms=0.8)
# As a large model on a GPU takes it: nearly all of a call is what every call costs.
GPU = Work(fewest=2, most=18, call_ms=12.0, document_ms=0.2)
CAPACITY_PER_S = CPU.capacity_per_s
_WAY_MS = 1.0  # from the caller to the sidecar and back
SLACK_MS = 50.0


class ModelledWorker:
    """Computes one chunk at a time; `stall` is the CPU being taken from it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._end = 0.0
        self.idle = True
        self.computed_ms = 0.0
        self.scheduler: Scheduler | None = None

    def stall(self, milliseconds: float) -> None:
        """The loop computes for so long."""
        self._loop.now += milliseconds / 1e3
        if not self.idle:
            self._end += milliseconds / 1e3

    async def compute(self, milliseconds: float, timeout_s: float | None) -> None:
        """Takes so long, whether or not the caller waits for it. Raises TimeoutError."""
        self.idle = False
        self._end = self._loop.time() + milliseconds / 1e3
        computed = asyncio.create_task(self._until_end(milliseconds))
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(computed)

    async def _until_end(self, milliseconds: float) -> None:
        while (left_s := self._end - self._loop.time()) > 1e-9:
            await asyncio.sleep(left_s)
        self.idle = True
        self.computed_ms += milliseconds
        if self.scheduler is not None:
            self.scheduler.look()


class ModelledReranker:
    """A cross-encoder whose time is a line in the tokens, with a lognormal spread and a long call now and then."""

    def __init__(self, worker: ModelledWorker, work: Work, scheduling: Scheduling, source: random.Random) -> None:
        self.identity = Identity("tiny-cross-encoder", Strategy.CROSS_ENCODER, "revision")
        self.limits = Limits(max_chunk_documents=64, shares_calls=True)
        self.scheduler = worker.scheduler = Scheduler([worker], scheduling)
        self._worker = worker
        self._work = work
        self._source = source

    def availability(self) -> Availability:
        return Availability(State.READY)

    def work(self, request: ScoreRequest) -> arms.Work:
        return arms.Work((TOKENS,) * len(request.documents))

    def queue_ms(self, end: float = math.inf) -> float:
        return self.scheduler.queue_ms(end)

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        return [(TOKENS * count, self._in_the_median(count)) for count in (1, 5, 10, 25) * 2]

    def remember(self, documents: Sequence[Document]) -> None:
        """Keeps nothing."""

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to release."""

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        share = request.turn.share if request.turn else None
        if share is None:
            taken_ms = await self._compute(len(request.documents), timeout_s)
        else:
            taken_ms = cast("float", await share.hand_in(len(request.documents), timeout_s, self._together))
        count = len(request.documents)
        return Scored((0.0,) * count, tokens=TOKENS * count, compute_ms=taken_ms)

    async def _together(self, counts: Sequence[object]) -> list[object]:
        taken_ms = await self._compute(sum(cast("Sequence[int]", counts)), None)
        return [taken_ms] * len(counts)

    async def _compute(self, documents: int, timeout_s: float | None) -> float:
        taken_ms = self._in_the_median(documents) * math.exp(self._source.gauss(0.0, SPREAD))
        if self._source.random() < 0.01:
            taken_ms += self._source.uniform(2.0, 8.0)
        await self._worker.compute(taken_ms, timeout_s)
        return taken_ms

    def _in_the_median(self, documents: int) -> float:
        return self._work.call_ms + self._work.document_ms * documents


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one request; ``latency_ms`` is its caller's."""

    budget_ms: float
    latency_ms: float
    scored: int
    asked: int
    degradations: tuple[Degradation, ...]

    @property
    def late(self) -> bool:
        """The client library would have answered itself."""
        return self.latency_ms > self.budget_ms

    @property
    def useful(self) -> bool:
        """In time with enough documents scored."""
        return self.scored >= min(USEFUL, self.asked) and not self.late


def poisson(per_s: float, seconds: float, source: random.Random) -> list[tuple[float, float]]:
    """(moment in s, budget in ms) of each request."""

    def moments() -> Iterator[float]:
        at = source.expovariate(per_s)
        while at < seconds:
            yield at
            at += source.expovariate(per_s)

    return [(at, source.choice(BUDGETS_MS)) for at in moments()]


def serve(scheduling: Scheduling, arrivals: Sequence[tuple[float, float]], work: Work = CPU) -> list[Served]:
    """Every arrival through one sidecar, in the order in which the answers leave."""

    async def main(loop: VirtualLoop) -> list[Served]:
        worker = ModelledWorker(loop)
        pipeline = _pipeline(loop, ModelledReranker(worker, work, scheduling, random.Random(2)))
        served: list[Served] = []
        source = random.Random(3)

        async def one(at_s: float, budget_ms: float) -> None:
            documents = source.randint(work.fewest, work.most)
            await asyncio.sleep(at_s)
            read = loop.time()  # the later, the more come at once
            worker.stall(READ_MS)
            deadline_left_ms = budget_ms + SLACK_MS - (read - at_s) * 1e3
            answer = await pipeline.rerank(_request(documents, budget_ms - _WAY_MS), deadline_left_ms, read)
            worker.stall(WRITE_MS)
            latency_ms = (loop.time() - at_s) * 1e3 + _WAY_MS
            outcome = answer.outcome
            served.append(Served(budget_ms, latency_ms, outcome.scored_k, documents, outcome.degradations))

        await asyncio.gather(*(one(at_s, budget_ms) for at_s, budget_ms in arrivals))
        return served

    return run(main)


def useful_share(scheduling: Scheduling, factor: float, work: Work = CPU, seconds: float = 8.0) -> float:
    """Of all requests at ``factor`` times the capacity."""
    served = serve(scheduling, poisson(factor * work.capacity_per_s, seconds, random.Random(1)), work)
    return sum(one.useful for one in served) / len(served)


def _pipeline(loop: VirtualLoop, reranker: ModelledReranker) -> Pipeline:
    settings = Settings()
    profiles = ProfileWatch(settings.profiles).current
    rerankers = {reranker.identity.name: reranker}
    tracer = NoOpTracerProvider().get_tracer("overload")
    estimates = Estimates(rerankers, profiles.default, loop.time)
    planner = Planner(
        rerankers=rerankers,
        assumed_gains={},
        profiles=profiles,
        estimates=estimates,
        budget=settings.budget,
        tracer=tracer,
        clock=loop.time,
    )
    return Pipeline(
        planner=planner,
        rerankers=rerankers,
        estimates=estimates,
        cache=ResultCache(0, 1.0),
        tracer=tracer,
        mode=Mode.ON,
        clock=loop.time,
        answer_ms=settings.budget.reserve_ms,
    )


def _request(documents: int, budget_ms: float) -> Request:
    candidates = (Candidate(str(rank), f"text {rank}", {"bm25": 20.0 - 0.1 * rank}) for rank in range(documents))
    return Request(
        *("", "", "a query", tuple(candidates)),
        budget_ms=budget_ms,
        deadline_slack_ms=_WAY_MS + SLACK_MS,
        use_cache=False,
    )
