"""What the files here share: one sidecar process with a real model, which takes seconds to load, and a real server in
this process around a scripted reranker."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from millirank import Client, Verdict
from millirank.v1.rerank_service_pb2_grpc import RerankServiceStub

from sidecar.rerankers.base import Limits as RerankerLimits
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.rpc import connected
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.helpers import Rig, ScriptedReranker, arm_data, profile_data, rig


@dataclass(frozen=True, slots=True)
class ModelSidecar:
    """A sidecar in which ``minilm-l6`` is ready, and what receives its telemetry."""

    sidecar: SidecarProcess
    receiver: OtlpReceiver
    tcp: str
    unix: str


@pytest.fixture(scope="session")
def model_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSidecar]:
    """Late interaction with the embedded model; a second arm whose model folder does not exist; telemetry on."""
    folder = tmp_path_factory.mktemp("models")
    with OtlpReceiver() as receiver:
        variables = model_settings(folder) | {
            "MILLIRANK_LISTEN__UNIX": str(folder / "m.sock"),
            "MILLIRANK_LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "50",  # ms
            "OTEL_METRIC_EXPORT_INTERVAL": "200",  # ms
        }
        with SidecarProcess(variables) as sidecar:
            tcp, unix = sidecar.addresses
            wait_until_ready(tcp)
            yield ModelSidecar(sidecar, receiver, tcp, unix)


def model_settings(folder: Path) -> dict[str, str]:
    """Settings of such a sidecar; ``folder`` is where its profile goes."""
    profile = folder / "profile.json"
    arm = arm_data("late_interaction", ms_per_token=0.15, weights={"bm25": 0.0})
    profile.write_text(json.dumps(profile_data(**{"minilm-l6": arm})))
    return {
        "MILLIRANK_PROFILES": json.dumps([str(profile)]),
        "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "false",
        "MILLIRANK_RERANKERS__ABSENT__STRATEGY": "cross_encoder",
        "MILLIRANK_RERANKERS__ABSENT__MODEL": "/nowhere/model",
    }


def wait_until_ready(address: str) -> None:
    """Models load behind the first answers, and nothing tells from outside when: ExplainRoute is asked."""
    deadline = time.monotonic() + PATIENCE_S
    with Client(address) as client:
        while True:
            decision = client.explain("q", ["a", "b"], budget_ms=60_000, timeout_ms=10_000)
            verdicts = {arm.verdict for arm in decision.considered if arm.reranker == "minilm-l6"}
            if Verdict.NOT_READY not in verdicts:
                return
            assert time.monotonic() < deadline, decision
            time.sleep(0.05)


@pytest.fixture
def reranker() -> ScriptedReranker:
    return ScriptedReranker(limits=RerankerLimits(max_chunk_documents=1))


@pytest.fixture
def parts(reranker: ScriptedReranker) -> Rig:
    return rig(reranker)


@pytest.fixture
async def stub(parts: Rig) -> AsyncIterator[RerankServiceStub]:
    async with parts.served() as (address,), connected(address) as stub:
        yield stub


@pytest.fixture
async def address(parts: Rig) -> AsyncIterator[str]:
    async with parts.served() as (address,):
        yield address
