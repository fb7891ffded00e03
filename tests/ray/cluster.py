"""A Ray of our own on this machine, with a pool on it: started small, asked, hurt, and always stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy.ray.app import build
from deploy.ray.arguments import Arguments
from tests.e2e.sidecar_process import REPOSITORY

# Starting Ray takes 10 s of two CPUs, a pool of a few replicas 10 s more; a machine that is shared may need many times
# that. Only a hang reaches this.
PATIENCE_S = 150.0
_OBJECT_STORE_BYTES = 80 << 20  # Ray's least is 75 MB; what goes through here is far smaller


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A running Ray and its gRPC proxy. Made by `running`."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"

    def deploy(self, arguments: Arguments) -> None:
        """Put a pool there, or update the one that is there, and wait until it is as wanted."""
        from ray import serve

        serve.run(build(arguments), name="millirank", route_prefix="/")

    def pids(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas: Ray names its processes."""
        title = f"ray::ServeReplica:millirank:{deployment}"
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").startswith(title):
                    found.append(int(entry.name))
        return found

    def until(self, condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        """Waits for a condition, or raises TimeoutError."""
        end = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the condition did not come true in time")
            time.sleep(0.1)


@contextlib.contextmanager
def running(cpus: int = 2, gpus: int = 0) -> Iterator[Cluster]:
    """Ray with Serve and its gRPC proxy, which knows our services; stopped whatever happens.

    Ray takes ``gpus`` on trust: it hands them out as if they were there.
    """
    import ray
    from ray import serve

    port = free_port()
    path = f"{REPOSITORY}:{REPOSITORY}/clients/python/src"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=cpus,
        num_gpus=gpus,
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": path, **_environment()}},
    )
    try:
        serve.start(
            http_options={"host": "127.0.0.1", "port": free_port()},
            grpc_options={"port": port, "grpc_servicer_functions": ["deploy.ray.services.add_to_server"]},
        )
        yield Cluster(port)
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()


def _environment() -> dict[str, Any]:
    """What the replicas are to see of this process's environment."""
    return {name: value for name, value in os.environ.items() if name.startswith(("MILLIRANK_", "OTEL_"))}
