"""The same requests to a model in the process, and on a pool with one and with two replicas."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from millirank.v1 import rerank_service_pb2 as pb
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc

from deploy.ray.arguments import Arguments, Replicas
from sidecar.reranker_settings import OnnxCrossEncoder, PoolCrossEncoder
from sidecar.settings import SchedulingSettings, Settings
from tests.bench.report import BenchError
from tests.bench.scale.asking import WARM_UP, asking, texts, together
from tests.bench.scale.workload import AT_ONCE, CANDIDATES, MODEL, ONE_BY_ONE, TOGETHER_S, Measured, Way
from tests.ray.cluster import Cluster

# All candidates of a request go before others': a rest that waits for callers who never stop would never be scored.
_SCHEDULING = SchedulingSettings(mandatory_documents=CANDIDATES)


async def in_process() -> Measured:
    """The model in a child of this process, with one thread, as a sidecar runs it."""
    configured = OnnxCrossEncoder(model=f"embedded:{MODEL}", threads=1)
    return await _measure(Settings(rerankers={MODEL: configured}, scheduling=_SCHEDULING))


async def pooled(cluster: Cluster) -> Measured:
    """The same pipeline, whose model is on the pool."""
    configured = PoolCrossEncoder(engine="grpc", addresses=(cluster.address,))
    return await _measure(Settings(rerankers={MODEL: configured}, scheduling=_SCHEDULING))


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
        for number in range(WARM_UP + ONE_BY_ONE):
            message = pb.RerankRequest(
                query=f"how to read a csv file {number}",
                documents=[pb.Document(text=text) for text in texts(number, CANDIDATES)],
                routing=pb.Routing(reranker=MODEL, rerank_k=CANDIDATES),
                budget=pb.Budget(latency=Duration(seconds=2)),
                cache_control=pb.CACHE_CONTROL_BYPASS,
            )
            started = time.perf_counter()
            answer = stub.Rerank(message, timeout=10.0)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            if number >= WARM_UP and answer.completeness == pb.COMPLETENESS_FULL:
                total_ms, score_ms = answer.timing.total.nanos / 1e6, answer.timing.score.nanos / 1e6
                proxy.append(elapsed_ms - total_ms)
                replica.append(total_ms - score_ms)
                model.append(score_ms)
    if not model:
        raise BenchError("the pool has answered no request in full")
    return Way(*(statistics.median(part) for part in (proxy, replica, model))), model


async def _measure(settings: Settings) -> Measured:
    async with asking(settings, MODEL, CANDIDATES) as asked:
        alone = sorted([await asked.ask(number) for number in range(ONE_BY_ONE)])
        at_once, took_s = await together(asked.ask, AT_ONCE, TOGETHER_S)
    return Measured(
        p50_ms=statistics.median(alone),
        p95_ms=alone[int(0.95 * len(alone))],
        requests_per_s=len(at_once) / took_s,
        together_p99_ms=at_once[min(len(at_once) - 1, int(0.99 * len(at_once)))],
    )
