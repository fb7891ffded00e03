"""Replicas on GPUs, as far as a machine without one can show it: Ray hands out a GPU that it has been told of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="SKIPPED: the pool's tests need Ray: pip install -e '.[ray]'")

from millirank import Client

from deploy.ray.arguments import Arguments, Replicas
from tests.ray.cluster import Cluster
from tests.ray.conftest import write_config
from tests.ray.pooled_sidecar import MODEL, until_ranked

pytestmark = pytest.mark.timeout(400)  # a cluster starts, on a machine that may be shared
VARIABLE = "CUDA_VISIBLE_DEVICES"


def test_two_replicas_share_a_gpu_and_their_models_see_it(ray: Cluster, tmp_path: Path) -> None:
    """With gpus = 0.5 both replicas get Ray's one GPU, and all of it is taken. The child that runs the model computes
    on what CUDA_VISIBLE_DEVICES lets it see: the GPU that its replica was given, which is `cuda` there."""
    import ray as library

    if VARIABLE in os.environ:
        pytest.skip(f"SKIPPED: {VARIABLE} is set here: inherited from here, it would show nothing")
    free = library.available_resources()["GPU"]
    ray.deploy(
        Arguments(
            config=str(write_config(tmp_path / "pool.toml")),
            ingress=Replicas(cpus=0.25),
            models={MODEL: Replicas(cpus=0.5, gpus=0.5, min_replicas=2)},
        )
    )
    with Client(ray.address) as client:
        until_ranked(client, MODEL)
    replicas = ray.pids(MODEL)
    assert len(replicas) == 2
    ray.until(lambda: library.available_resources().get("GPU", 0.0) == 0.0)
    assert free == 1.0
    assert [visible(child) for replica in replicas for child in models_of(replica)] == ["0", "0"]


def models_of(replica: int) -> list[int]:
    """Process ids of a replica's model processes."""
    lists = (each.read_text().split() for each in Path(f"/proc/{replica}/task").glob("*/children"))
    return [
        int(pid) for pids in lists for pid in pids if b"sidecar.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def visible(pid: int) -> str | None:
    """CUDA_VISIBLE_DEVICES as a process found it when it was started; None if it was not set."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next((value for name, _, value in (each.partition("=") for each in variables) if name == VARIABLE), None)
