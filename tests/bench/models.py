"""How fast the model arms score through the whole service, and what the process weighs after that."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millirank.v1 import rerank_service_pb2 as pb

from sidecar.calibrate import stdlib
from sidecar.reranker_settings import OnnxLateInteraction
from sidecar.settings import Settings
from tests.bench import processes
from tests.bench.arms import Arms, forced, settle
from tests.bench.collector import Collector
from tests.bench.connection import RERANK, Connection, connect, quantile
from tests.bench.passthrough import request as passthrough_request
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Row, Section, Spread

TEXTS = 50
COLD = "cold documents"
WARM = "warm documents"

# Shorter docstrings are a line or two; a candidate is usually a passage.
_SHORTEST_TEXT = 300
_WARM_REQUESTS = 8
_FURTHER_REQUESTS = 300
_LAST_BEGIN_S = 40.0


@dataclass(slots=True)
class _Series:
    """One arm with cold or with warm documents; one entry a round."""

    arm: str
    documents: str
    p50_ms: list[float] = field(default_factory=list)
    pairs_per_s: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def row(self) -> Row:
        return Row(
            f"{self.arm}, {self.documents}",
            {
                "p50_ms": Spread.of(self.p50_ms),
                "pairs_per_s": Spread.of(self.pairs_per_s),
                "tokens_per_pair": Spread.of(self.tokens),
            },
        )


def measure(folder: Path, steps: Steps, *, rounds: int = 3) -> Section:
    """Pairs per second and p50 of every model arm, in ``rounds`` interleaved rounds; then the memory.

    On a busy machine there are fewer rounds, so that a run stays bounded: none begins after `_LAST_BEGIN_S`.

    Raises BenchError when a model is not there or does not score everything that it is given.
    """
    steps.begin("models", rounds + 2)
    steps.now("reading the standard library's documentation")
    passages, queries = _texts(), _queries()
    steps.now("loading the models")
    # Idle warming would encode, behind the cross-encoder's requests, what is to be cold a moment later.
    settings = {
        f"MILLIRANK_RERANKERS__{name.replace('-', '_').upper()}__WARM_IDLE": "false"
        for name, configured in Settings().rerankers.items()
        if isinstance(configured, OnnxLateInteraction)
    }
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(Collector())
        child = stack.enter_context(processes.sidecar(folder, "models", {**settings, **collector.environment}))
        connection = stack.enter_context(connect(child.tcp))
        arms = settle(connection)
        if not arms.ready:
            arms.require_all()
        steps.done()
        series = {(arm, kind): _Series(arm, kind) for arm in arms.ready for kind in (COLD, WARM)}
        began = time.monotonic()
        texts: list[str] = []
        for number in range(rounds):
            if number and time.monotonic() - began > _LAST_BEGIN_S:
                break
            for arm in arms.ready if number % 2 == 0 else reversed(arms.ready):
                steps.now(f"round {number + 1}, {arm}")
                texts = [next(passages) for _ in range(TEXTS)]
                _round(connection, arm, texts, queries, series)
            steps.done()
        steps.now("serving a few hundred requests more")
        _serve_more(connection, arms, texts, queries)
        memory = processes.memory_mb(child.process.pid)
        steps.done()
    return _section(list(series.values()), arms, memory)


def _texts() -> Iterator[str]:
    """Passages of the collection in a fixed random order, each once: what comes next was never sent before."""
    passages = [one.text for one in stdlib.documents(progress=False) if len(one.text) >= _SHORTEST_TEXT]
    random.Random(0).shuffle(passages)
    yield from passages
    raise BenchError(f"the collection has only {len(passages)} passages; use fewer --rounds")


def _queries() -> Iterator[str]:
    """The collection's questions over and over; a number makes each one new, so that no query is kept either."""
    questions = [one.text for one in stdlib.questions()]
    for number in itertools.count():
        yield f"{questions[number % len(questions)]} ({number})"


def _round(
    connection: Connection,
    arm: str,
    texts: Sequence[str],
    queries: Iterator[str],
    series: Mapping[tuple[str, str], _Series],
) -> None:
    """The same texts under new queries: the first request finds them cold, the further ones warm."""
    for kind, requests in ((COLD, 1), (WARM, _WARM_REQUESTS)):
        taken_ms = []
        tokens = 0
        for _ in range(requests):
            request = forced(arm, next(queries), texts)
            data = request.SerializeToString()
            before = time.perf_counter()
            answer = pb.RerankResponse.FromString(connection.call(RERANK, data))
            taken_ms.append((time.perf_counter() - before) * 1e3)
            tokens += answer.usage.tokens
            _check(answer, arm, kind)
        one = series[arm, kind]
        one.p50_ms.append(quantile(taken_ms, 0.5))
        one.pairs_per_s.append(len(texts) * requests / sum(taken_ms) * 1e3)
        one.tokens.append(tokens / (len(texts) * requests))


def _check(answer: pb.RerankResponse, arm: str, kind: str) -> None:
    """A figure counts only where every text was scored, and where cold ones were really cold."""
    if answer.completeness != pb.COMPLETENESS_FULL or answer.usage.pairs != TEXTS:
        reasons = "; ".join(one.detail for one in answer.degradations)
        raise BenchError(f"reranker {arm} scored {answer.usage.pairs} of {TEXTS} texts: {reasons}")
    if kind == COLD and answer.usage.cached_pairs:
        raise BenchError(f"reranker {arm} had seen {answer.usage.cached_pairs} texts that were to be cold")


def _serve_more(connection: Connection, arms: Arms, texts: Sequence[str], queries: Iterator[str]) -> None:
    """`_FURTHER_REQUESTS` of the usual kinds: every arm, the router's own choice, and none at all."""
    passing = passthrough_request()
    for number in range(_FURTHER_REQUESTS):
        kind = number % (2 + len(arms.ready))
        if kind == 0:
            connection.rerank(passing)
            continue
        chosen = forced(arms.ready[kind - 2], next(queries), texts) if kind > 1 else _automatic(next(queries), texts)
        connection.rerank(chosen)


def _automatic(query: str, texts: Sequence[str]) -> pb.RerankRequest:
    message = pb.RerankRequest(query=query)
    for rank, text in enumerate(texts):
        message.documents.add(text=text, signals={"bm25": 20.0 - 0.1 * rank})
    message.budget.latency.FromMilliseconds(100)
    return message


def _section(series: Sequence[_Series], arms: Arms, memory: Mapping[str, float]) -> Section:
    # A process without all of its models is not the one whose memory is promised.
    figures = {} if arms.off else {"memory_mb": memory["pss"]}
    rounds = len(series[0].p50_ms)
    return Section(
        title=f"Models: {TEXTS} texts through the service, strategy forced, no budget to speak of",
        rows=(
            *(one.row() for one in series),
            *(Row(f"memory, {name.upper()}", {"mb": Spread.of([value])}) for name, value in memory.items()),
        ),
        figures=figures,
        notes=(
            f"{rounds} interleaved rounds; cold: one request a round whose texts were never sent before; "
            f"warm: {_WARM_REQUESTS} requests with the same texts; every query is new",
            "texts: the standard library's documentation, passages of "
            f"{_SHORTEST_TEXT} characters and more; idle warming switched off",
            "a cross-encoder keeps nothing, so warm and cold are the same work for it",
            "memory: the sidecar with its children in MB of 10^6 bytes (RSS counts shared pages more than once), "
            f"telemetry on, after {_FURTHER_REQUESTS} requests more",
            *(f"switched off: {reason}; memory_mb is left out" for reason in arms.off),
        ),
    )
