"""The two clients behind one face, and peers that misbehave as real ones do."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from millirank import AsyncClient, Client

DOCUMENTS = ["alpha", "beta", "gamma", "delta"]

# The promise is budget + max(5 ms, 2 %) at p99.9 on a machine that has a core to spare. Tests run on machines
# that others load, where a missed turn of the scheduler (or of the interpreter lock, 5 ms) says nothing about
# the client: hence 30 ms, and the fastest of three calls counts. A client that waits for the peer, for a
# cancellation or for the gRPC deadline (budget + 50 ms) overruns every time, and fails.
TOLERANCE_MS = 30.0

# A budget for tests about something else than time: no stall of the machine turns their answer into a
# fallback.
ROOMY_MS = 10_000.0


class Threaded:
    """`Client` with the face of `AsyncClient`, so that one test states a contract of both."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.client = Client(*args, **options)

    @property
    def stats(self) -> Any:
        return self.client.stats

    async def rerank(self, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self.client.rerank, *args, **options)

    async def explain(self, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self.client.explain, *args, **options)

    async def wait_until_ready(self, timeout_s: float = 5.0) -> bool:
        return await asyncio.to_thread(self.client.wait_until_ready, timeout_s)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


BOTH = [Threaded, AsyncClient]


def stopped_port() -> str:
    """A loopback target on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def unresponsive_listener() -> Iterator[str]:
    """A target whose connections are accepted (by the kernel) and never spoken to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


_SIDECAR_PROCESS = """
import sys
from millirank.testing import FakeSidecar
with FakeSidecar() as sidecar:
    print(sidecar.target, flush=True)
    sys.stdin.read()
"""


class SidecarProcess:
    """A sidecar in a process of its own, which can be frozen."""

    def __init__(self, process: subprocess.Popen[str], target: str) -> None:
        self.process = process
        self.target = target

    def freeze(self) -> None:
        """Stop the process where it is; its connections stay open."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def sidecar_process() -> Iterator[SidecarProcess]:
    """Start a sidecar that reverses its candidates; thawed and ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SIDECAR_PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        sidecar = SidecarProcess(process, process.stdout.readline().strip())
        try:
            yield sidecar
        finally:
            sidecar.thaw()
            process.communicate("", timeout=10)
