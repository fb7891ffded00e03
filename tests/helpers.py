"""What the tests of the sidecar share: a reranker without a model, a clock, a profile, and the parts put together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from router.arms import Availability, State, Strategy, Work
from router.profile import Profile, parse
from sidecar.cache import ResultCache
from sidecar.decision_log import DecisionLog
from sidecar.estimates import Estimates
from sidecar.messages import Candidate, Request
from sidecar.metrics import Metrics
from sidecar.pipeline import Pipeline
from sidecar.planner import Planner
from sidecar.profiles import Profiles
from sidecar.request_frame import RequestFrame
from sidecar.rerankers.base import Document, Identity, Limits, Scored, ScoreRequest
from sidecar.scheduler import Scheduler
from sidecar.server import Server
from sidecar.service import RerankService
from sidecar.settings import Listen, Settings
from sidecar.shadow import Shadow

# In every query, document and exception of a leak test; must never come out where text has no business to be.
MARKER = "zyzzyva"


class Clock:
    """Seconds that only pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += milliseconds / 1e3


class FakeWorker:
    """A worker that is busy as long as the test says so."""

    def __init__(self) -> None:
        self.idle = True
        self.computed_ms = 0.0


def overlap(query: str, text: str) -> float:
    """The scripted reranker's score: how many different words of the query the text contains."""
    return float(len(set(query.lower().split()) & set(text.lower().split())))


class ScriptedReranker:
    """A `Reranker` without a model: scores by words in common, and waits or fails exactly as told.

    ``script`` holds what the next calls do: an exception is raised, a `Scored` is answered, None (as when it is
    empty) scores for real. While ``gate`` is set to an Event, calls wait for it, within their timeout. On a `Clock`
    every document takes ``document_ms``.
    """

    def __init__(
        self,
        name: str = "scripted",
        strategy: Strategy = Strategy.CROSS_ENCODER,
        *,
        limits: Limits = Limits(max_chunk_documents=64),  # noqa: B008 - frozen
        document_ms: float = 0.0,
        tokens_per_document: int = 10,
        clock: Clock | None = None,
    ) -> None:
        self.identity = Identity(name, strategy, f"{name}-revision-1")
        self.limits = limits
        self.scheduler: Scheduler | None = None
        self.state = Availability(State.READY)
        self.script: list[BaseException | Scored | None] = []
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.calls: list[ScoreRequest] = []
        self.remembered: list[Sequence[Document]] = []
        self.cancelled = 0
        self.finished = 0
        self._document_ms = document_ms
        self._tokens = tokens_per_document
        self._clock = clock

    def availability(self) -> Availability:
        return self.state

    def work(self, request: ScoreRequest) -> Work:
        return Work(tokens=(self._tokens,) * len(request.documents))

    async def start(self) -> None:
        """Nothing to load."""

    def queue_ms(self, end: float = math.inf) -> float:
        return 0.0

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        return ()

    def remember(self, documents: Sequence[Document]) -> None:
        self.remembered.append(documents)

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        self.calls.append(request)
        self.entered.set()
        if self.gate is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self._clock is not None:
            self._clock.pass_ms(self._document_ms * len(request.documents))
        step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        self.finished += 1
        return step or Scored(
            scores=tuple(overlap(request.query, document.text) for document in request.documents),
            tokens=self._tokens * len(request.documents),
            compute_ms=max(0.01, self._document_ms * len(request.documents)),
        )

    async def close(self) -> None:
        """Nothing to release."""


def arm_data(
    strategy: str = "cross_encoder",
    *,
    gain: float = 0.1,
    weights: Mapping[str, float] | None = None,
    ms_per_token: float = 0.001,
) -> dict[str, Any]:
    """One arm of a profile, calibrated for no signals and for bm25; from k = 2 on its gain is ``gain``."""
    own = {} if strategy == "signals" else {"rerank": 1.0}
    return {
        "strategy": strategy,
        "latency": {"base_ms": 0.1, "ms_per_token": ms_per_token, "spread": 1.2},
        "gains": {key: {"points": [[2, gain, gain]]} for key in ("", "bm25")},
        "weights": {
            "": {**own, "signals": {}},
            "bm25": {**own, "signals": dict(weights or {"bm25": 1.0})},
        },
    }


def profile_data(corpus: str = "default", **arms: dict[str, Any]) -> dict[str, Any]:
    """A profile as JSON, in the format of `router.profile`; by default it knows one arm, ``scripted``."""
    return {
        "format": "millirank.profile/2",
        "corpus": corpus,
        "rerank_ks": [10, 25, 50, 100],
        "min_gain_per_second": 0.01,
        "known_signals": ["bm25"],
        "arms": arms or {"scripted": arm_data()},
    }


def profile(corpus: str = "default", **arms: dict[str, Any]) -> Profile:
    """`profile_data`, parsed."""
    return parse(profile_data(corpus, **arms), revision=f"{corpus}-revision")


def request(query: str = "red green blue", *texts: str, **fields: Any) -> Request:
    """A valid request as the pipeline gets it. ``signals`` is one mapping for each text."""
    signals = fields.pop("signals", [{} for _ in texts])
    candidates = tuple(
        Candidate(f"id-{number}", text, own) for number, (text, own) in enumerate(zip(texts, signals, strict=True))
    )
    return Request(**{"request_id": "r-1", "corpus": "", "query": query, "candidates": candidates, **fields})


@dataclass(slots=True)
class Rig:
    """A sidecar's parts around rerankers of a test, and everything that they traced and counted."""

    planner: Planner
    pipeline: Pipeline
    service: RerankService
    spans: InMemorySpanExporter
    clock: Callable[[], float]
    settings: Settings
    metric_reader: InMemoryMetricReader
    instruments: Metrics
    frame: RequestFrame
    servers: list[Server] = field(default_factory=list)

    def span(self, name: str) -> ReadableSpan:
        """The only finished span of that name."""
        (found,) = [span for span in self.spans.get_finished_spans() if span.name == name]
        return found

    def metrics(self) -> dict[str, list[Any]]:
        """Data points of every instrument that has counted something."""
        data = json.loads(self.metric_reader.get_metrics_data().to_json())  # type: ignore[union-attr]
        scopes = data["resource_metrics"][0]["scope_metrics"]
        return {metric["name"]: metric["data"]["data_points"] for metric in scopes[0]["metrics"]}

    @contextlib.asynccontextmanager
    async def served(self, listen: Listen | None = None) -> AsyncIterator[tuple[str, ...]]:
        """A real gRPC server around the parts; gives its addresses."""
        server = Server(
            self.service, self.pipeline, listen or Listen(tcp="127.0.0.1:0"), self.settings.limits, self.instruments
        )
        self.servers.append(server)
        addresses = await server.start()
        try:
            yield addresses
        finally:
            await server.stop(0.0, 1.0)
            await self.pipeline.close()


def rig(
    *rerankers: ScriptedReranker,
    profiles: Iterable[Profile] = (),
    settings: Settings | None = None,
    clock: Callable[[], float] = time.monotonic,
    assumed_gains: Mapping[str, float] | None = None,
    decision_log: DecisionLog | None = None,
    shadow: Shadow | None = None,
    cache: ResultCache | None = None,
) -> Rig:
    """Put the parts together as `sidecar.assemble` does, around rerankers of a test."""
    settings = settings or Settings()
    by_corpus = {each.corpus: each for each in profiles} or {"default": profile()}
    by_name = {each.identity.name: each for each in rerankers}
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    tracer = tracers.get_tracer("tests")
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("tests")
    estimates = Estimates(by_name, by_corpus["default"], clock)
    planner = Planner(
        rerankers=by_name,
        assumed_gains=assumed_gains or {},
        profiles=Profiles(by_corpus["default"], by_corpus),
        estimates=estimates,
        budget=settings.budget,
        tracer=tracer,
        clock=clock,
        decision_log=decision_log,
    )
    pipeline = Pipeline(
        planner=planner,
        rerankers=by_name,
        estimates=estimates,
        cache=ResultCache(settings.cache.results_bytes, settings.cache.ttl_s) if cache is None else cache,
        tracer=tracer,
        mode=settings.mode,
        clock=clock,
        shadow=shadow,
    )
    instruments = Metrics(meter)
    frame = RequestFrame(settings.limits, tracer, instruments)
    service = RerankService(pipeline, settings.limits, frame)
    return Rig(planner, pipeline, service, spans, clock, settings, reader, instruments, frame)
