"""The child processes of a measurement: started, waited for, weighed, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.held_signals import held_signals
from tests.bench.report import BenchError

ROOT = Path(__file__).resolve().parents[2]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.002
# Settings of whoever runs the bench must not leak into what is measured.
_NOT_INHERITED = ("MILLIRANK_", "OTEL_")


@dataclass(frozen=True, slots=True)
class Child:
    """A server that has said where it serves; ``started`` is when it was spawned, on the monotonic clock."""

    process: subprocess.Popen[bytes]
    tcp: str
    unix: str
    started: float

    @property
    def targets(self) -> Mapping[str, str]:
        """gRPC targets by transport."""
        return {"tcp": self.tcp, "unix": self.unix}


@contextlib.contextmanager
def echo_server(folder: Path) -> Iterator[Child]:
    """`tests.bench.echo_server` in a process of its own; its socket and log lie in ``folder``."""
    with _child(folder, "echo", ["-m", "tests.bench.echo_server", str(folder / "echo.sock")], {}) as child:
        yield child


@contextlib.contextmanager
def sidecar(folder: Path, name: str, settings: Mapping[str, str]) -> Iterator[Child]:
    """``python -m sidecar serve`` as a user would start it, with ``settings`` as environment variables."""
    own = {
        "MILLIRANK_LISTEN__TCP": "127.0.0.1:0",
        "MILLIRANK_LISTEN__UNIX": str(folder / f"{name}.sock"),
        "MILLIRANK_LINGER_S": "0",
        **settings,
    }
    with _child(folder, name, ["-m", "sidecar", "serve"], own) as child:
        yield child


@contextlib.contextmanager
def _child(folder: Path, name: str, command: Sequence[str], settings: Mapping[str, str]) -> Iterator[Child]:
    log = folder / f"{name}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
    started = time.monotonic()
    process = None
    try:
        with log.open("wb") as errors, held_signals():
            # In a session of its own: Ctrl-C reaches only the bench, which then stops its children in order.
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**inherited, **settings},
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        tcp, unix = _addresses(process, log)
        yield Child(process, tcp, unix, started)
    finally:
        if process is not None:
            _stop(process)


def _addresses(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    """The TCP and the Unix address that the child logs when it serves."""
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if line.endswith("\n") and line.startswith("{"):
                entry = json.loads(line)
                if entry.get("message") == "serving":
                    tcp, unix = entry["addresses"]
                    return tcp, unix
        if process.poll() is not None:
            raise BenchError(f"{log.stem} ended with exit code {process.returncode}: {_last_line(log)}")
        time.sleep(_POLL_S)
    raise BenchError(f"{log.stem} did not serve within {_START_TIMEOUT_S:g} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask; if that does not help, kill the child and its own children, which share its process group."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_ms(pid: int) -> float:
    """CPU time that all threads of the process, its children not included, have used so far."""
    # The kernel's number of another process's CPU clock, as clock_getcpuclockid(3) makes it.
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


def memory_mb(pid: int) -> Mapping[str, float]:
    """``pss`` and ``rss`` of the process and all its children, in MB of 10^6 bytes.

    PSS (proportional set size, proc_pid_smaps_rollup(5)) counts a page that n processes share as 1/n page in each.
    """
    totals = {"pss": 0.0, "rss": 0.0}
    for one in tree(pid):
        rollup = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii")
        for line in rollup.splitlines():
            name, _, rest = line.partition(":")
            if name.lower() in totals:
                totals[name.lower()] += int(rest.split()[0]) * 1024 / 1e6
    return totals


def tree(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            yield from tree(int(child))
