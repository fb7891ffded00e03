"""A program of `tests.bench.rivals`, seen from the bench: started, asked, weighed, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.held_signals import held_signals
from tests.bench.processes import ROOT
from tests.bench.report import BenchError

_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.25
_CHUNK = 1 << 16
# Settings of whoever runs the bench must not leak into what is measured, nor may anything be fetched.
_NOT_INHERITED = ("MILLIRANK_", "OTEL_", "OMP_", "PYTHON")
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "TOKENIZERS_PARALLELISM": "true",
}


class ChildError(BenchError):
    """A child could not do what it was asked for. The message is its own, or how it ended."""


class Child:
    """A context manager around ``python -m tests.bench.rivals.MODULE``; its log lies in ``log``.

    ``tick`` is called while an answer is awaited, a few times a second.
    """

    def __init__(self, name: str, python: Path, module: str, log: Path, tick: Callable[[], None]) -> None:
        self._name = name
        self._tick = tick
        self._log = log
        self._pending = b""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
        with log.open("wb") as errors, held_signals():
            # In a session of its own: Ctrl-C reaches only the bench, which then stops its children in order.
            self._process = subprocess.Popen(
                [python, "-m", f"tests.bench.rivals.{module}"],
                cwd=ROOT,
                env={**inherited, **_SETTINGS},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to one request. Raises ChildError: it failed, it ended, or it took too long."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._line(timeout_s))
        except BrokenPipeError:
            raise self._ended() from None
        if "error" in answer:
            raise ChildError(f"{self._name}: {answer['error']}")
        return answer

    def _line(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if time.monotonic() > end:
                    raise ChildError(f"{self._name}: no answer within {timeout_s:g} s")
                if not selector.select(_POLL_S):
                    self._tick()
                    continue
                read = os.read(self._process.stdout.fileno(), _CHUNK)
                if not read:
                    raise self._ended()
                self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _ended(self) -> ChildError:
        code = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return ChildError(f"{self._name} ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}")

    def close(self) -> None:
        """Ends the process: politely, then with everything that it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
