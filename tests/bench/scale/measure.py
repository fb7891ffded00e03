"""The same requests to a model in the process, and on a pool with one and with two replicas."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc

from deploy.ray.arguments import Arguments, Replicas
from router.arms import State
from router.policy import Routing
from sidecar.assemble_core import Core, build_core
from sidecar.messages import Completeness, Request
from sidecar.reranker_settings import OnnxCrossEncoder, PoolCrossEncoder
from sidecar.settings import SchedulingSettings, Settings
from tests.bench.report import BenchError
from tests.bench.scale.workload import AT_ONCE, CANDIDATES, MODEL, ONE_BY_ONE, TOGETHER_S, Measured, Way
from tests.helpers import request as request_of
from tests.ray.cluster import Cluster

_WORDS = "the csv module reads and writes rows of a file as lists of text with a delimiter between the fields " * 3
# Budgets are no limit here, and all candidates of a request go before others': a rest that waits for callers who never
# stop would not be scored at all.
_BUDGET_MS = 20_000.0
_SCHEDULING = SchedulingSettings(mandatory_documents=CANDIDATES)
_WARM_UP = 20
_PATIENCE_S = 120.0


async def in_process() -> Measured:
    """The model in a child of this process, with one thread, as a sidecar runs it."""
    configured = OnnxCrossEncoder(model=f"embedded:{MODEL}", threads=1)
    return await _core(Settings(rerankers={MODEL: configured}, scheduling=_SCHEDULING))


async def pooled(cluster: Cluster) -> Measured:
    """The same pipeline, whose model is on the pool."""
    configured = PoolCrossEncoder(engine="grpc", addresses=(cluster.address,))
    return await _core(Settings(rerankers={MODEL: configured}, scheduling=_SCHEDULING))


def arguments(replicas: int, folder: Path) -> Arguments:
    """A pool of one model with so many replicas of one CPU each."""
    config = folder / "pool.toml"
    config.write_text(
        "[rerankers.minilm-l6]\nenabled = false\n[rerankers.llm]\nenabled = false\n[cache]\npairs_bytes = 0\n"
        f"results_bytes = 0\n[scheduling]\nmandatory_documents = {CANDIDATES}\n",
        encoding="utf-8",
    )
    return Arguments(
        config=str(config),
        # Ray's CPUs are tickets, not cores: the model's replicas take one each, the ingress what they leave.
        ingress=Replicas(cpus=0.0, max_ongoing_requests=128),
        models={MODEL: Replicas(cpus=1.0, min_replicas=replicas, max_replicas=replicas)},
    )


def way(cluster: Cluster) -> tuple[Way, list[float]]:
    """Where the time goes; and the model's times of single requests, in ms, for the simulation."""
    proxy, replica, model = [], [], []
    with grpc.insecure_channel(cluster.address) as channel:
        stub = pb_grpc.RerankServiceStub(channel)
        for number in range(_WARM_UP + ONE_BY_ONE):
            message = pb.RerankRequest(
                query=f"how to read a csv file {number}",
                documents=[pb.Document(text=text) for text in _texts(number)],
                routing=pb.Routing(reranker=MODEL, rerank_k=CANDIDATES),
                budget=pb.Budget(latency=Duration(seconds=2)),
                cache_control=pb.CACHE_CONTROL_BYPASS,
            )
            started = time.perf_counter()
            answer = stub.Rerank(message, timeout=10.0)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            if number >= _WARM_UP and answer.completeness == pb.COMPLETENESS_FULL:
                total_ms, score_ms = answer.timing.total.nanos / 1e6, answer.timing.score.nanos / 1e6
                proxy.append(elapsed_ms - total_ms)
                replica.append(total_ms - score_ms)
                model.append(score_ms)
    if not model:
        raise BenchError("the pool has answered no request in full")
    return Way(*(statistics.median(part) for part in (proxy, replica, model))), model


async def _core(settings: Settings) -> Measured:
    core = build_core(settings, {})
    await core.start()
    try:
        return await _measure(core)
    finally:
        await core.stop()


async def _measure(core: Core) -> Measured:
    end = time.monotonic() + _PATIENCE_S
    while core.rerankers[MODEL].availability().state is not State.READY:
        if time.monotonic() > end:
            raise BenchError(core.rerankers[MODEL].availability().detail)
        await asyncio.sleep(0.1)

    async def ask(number: int) -> float:
        started = time.monotonic()
        answer = await core.pipeline.rerank(_request(number), None, started)
        if answer.outcome.completeness is not Completeness.FULL:
            # Its time would say nothing.
            missing = ", ".join(each.detail for each in answer.outcome.degradations)
            raise BenchError(f"an answer was less than planned: {missing}")
        return (time.monotonic() - started) * 1e3

    for number in range(_WARM_UP):
        await ask(number)
    alone = sorted([await ask(number) for number in range(ONE_BY_ONE)])
    together, took_s = await _together(ask)
    return Measured(
        p50_ms=statistics.median(alone),
        p95_ms=alone[int(0.95 * len(alone))],
        requests_per_s=len(together) / took_s,
        together_p99_ms=together[min(len(together) - 1, int(0.99 * len(together)))],
    )


async def _together(ask: Callable[[int], Awaitable[float]]) -> tuple[list[float], float]:
    """Sorted times of requests by callers that never wait, and how long all of it took, in s."""
    took: list[float] = []
    started = time.monotonic()

    async def caller(which: int) -> None:
        number = 1_000_000 * (which + 1)
        while time.monotonic() < started + TOGETHER_S:
            took.append(await ask(number))
            number += 1

    await asyncio.gather(*(caller(which) for which in range(AT_ONCE)))
    return sorted(took), time.monotonic() - started


def _texts(number: int) -> list[str]:
    return [f"{number} {position} {_WORDS}" for position in range(CANDIDATES)]


def _request(number: int) -> Request:
    return request_of(
        f"how to read a csv file {number}",
        *_texts(number),
        budget_ms=_BUDGET_MS,
        use_cache=False,
        routing=Routing(reranker=MODEL, rerank_k=CANDIDATES),
    )
