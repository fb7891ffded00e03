"""A command's own sidecars: real child processes on private sockets, stopped whatever happens to the command.

Also when it is killed: a sidecar's standard input is a pipe that ends with the command, and the sidecar with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from millirank import Client, Decision, Document, RerankError, Verdict

from sidecar.held_signals import ENDING, held_signals

_START_TIMEOUT_S = 30.0
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.05
# So long that no arm is left out for its time: what is still loading then says so.
_UNLIMITED_MS = 60_000.0
_LAST_LINES = 5


class PrivateSidecarError(Exception):
    """A private sidecar did not start, or has ended. The message has its last words."""


@dataclass(frozen=True, slots=True)
class SidecarProcess:
    """A child process that may still be starting; its socket and log lie in a private folder."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    @property
    def target(self) -> str:
        """Where clients find it."""
        return f"unix:{self.socket}"

    def check(self) -> None:
        """Raises PrivateSidecarError with its last words if it has ended."""
        if self.process.poll() is not None:
            raise PrivateSidecarError(
                f"the sidecar ended with exit code {self.process.returncode}; it said last:\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:]) or "(nothing)"


@contextlib.contextmanager
def sidecar(folder: Path, name: str, settings: Mapping[str, str]) -> Iterator[SidecarProcess]:
    """``millirank serve`` with ``settings`` as environment variables and otherwise its defaults.

    Returns at once, while it starts. Settings of whoever runs the command are not inherited; OTEL_* variables are, so
    that traces go where they say.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MILLIRANK_")}
    socket, log = folder / f"{name}.sock", folder / f"{name}.log"
    own = {
        "MILLIRANK_LISTEN__UNIX": str(socket),
        "MILLIRANK_LISTEN__TCP": "",
        "MILLIRANK_LINGER_S": "0",
        # A configuration may name what belongs to the sidecar that serves.
        "MILLIRANK_LISTEN__ADMIN": "",
        "MILLIRANK_DECISION_LOG__FILE": "",
        "MILLIRANK_SHADOW__SHARE": "0",
    }
    process = None
    try:
        # A signal in the middle of Popen would leave a child that nobody knows of.
        with log.open("wb") as output, held_signals():
            # In a session of its own: Ctrl-C reaches only the command, which then stops its children in order.
            process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "serve", "--stop-with-stdin"],
                env={**inherited, **own, **settings},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        yield SidecarProcess(process, socket, log)
    finally:
        if process is not None:
            _stop(process)


@contextlib.contextmanager
def reachable(child: SidecarProcess) -> Iterator[Client]:
    """A client of the sidecar, once it serves; its models may still be loading.

    Raises PrivateSidecarError when it ends or takes too long.
    """
    with Client(child.target) as client:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not client.wait_until_ready(timeout_s=0.5):
            child.check()
            if time.monotonic() > deadline:
                raise PrivateSidecarError(
                    f"the sidecar does not answer after {_START_TIMEOUT_S:.0f} s; it said last:\n{child.last_words()}"
                )
        yield client


@contextlib.contextmanager
def connected(child: SidecarProcess, query: str, documents: list[Document]) -> Iterator[Client]:
    """As `reachable`, and no arm for this request is still loading its model."""
    with reachable(child) as client:
        _wait_for_models(client, child, query, documents)
        yield client


def _wait_for_models(client: Client, child: SidecarProcess, query: str, documents: list[Document]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    loading = ""
    while time.monotonic() < deadline:
        child.check()
        try:
            loading = _still_loading(client.explain(query, documents, budget_ms=_UNLIMITED_MS))
        except RerankError as error:  # busy loading, it may answer late; anything else is said in the end
            loading = str(error)
        if not loading:
            return
        time.sleep(_POLL_S)
    raise PrivateSidecarError(f"the sidecar's models are not ready after {_READY_TIMEOUT_S:.0f} s: {loading}")


def _still_loading(decision: Decision) -> str:
    waiting = {arm.reranker: arm.detail for arm in decision.considered if arm.verdict is Verdict.NOT_READY}
    return ", ".join(f"{name} ({detail})" for name, detail in waiting.items())


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask; if that does not help, kill the sidecar and its workers, which share its process group."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass  # killed below, as after an impatient second Ctrl-C
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP unwind the stack, so that no child process is left, and end with 128 + number."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and it has its own
        return
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in ENDING}
    try:
        yield
        if received:
            raise KeyboardInterrupt  # raised inside a callback of a C library, the first one was dropped there
    except BaseException:
        if received:
            # Whatever it has become on its way: interrupted in its import, a C library raises an ImportError.
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
