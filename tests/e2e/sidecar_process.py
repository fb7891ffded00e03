"""A real sidecar in a process of its own: started, watched through its logs, ended, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Starting takes about 2 s of CPU; a machine that is shared may need many times that. Only a hang reaches this.
PATIENCE_S = 60.0

REPOSITORY = Path(__file__).resolve().parents[2]
# Without models: what is tested with these settings is the process, and it is up in no time.
NO_MODELS = {
    "MILLIRANK_RERANKERS__MINILM_L6__ENABLED": "false",
    "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "false",
}


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what would configure a sidecar or its telemetry, plus ``variables``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLIRANK_", "OTEL_"))}
    return {**kept, **variables}


def millirank(
    *arguments: str, variables: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """One command of ``millirank``, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        env=clean_environment(**(variables or {})),
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class SidecarProcess:
    """``with SidecarProcess({...}) as sidecar``: ``millirank serve`` on a free loopback port, killed at the latest on
    the way out. Variables are settings as the environment has them; ``wrapper`` is a command that runs the rest of its
    line in its own place."""

    def __init__(
        self, variables: Mapping[str, str] | None = None, *arguments: str, wrapper: Sequence[str] = ()
    ) -> None:
        environment = clean_environment(**{"MILLIRANK_LISTEN__TCP": "127.0.0.1:0", **(variables or {})})
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "sidecar", "serve", *arguments],
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything that came over stderr so far."""
        with self._changed:
            return "\n".join(self._lines)

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Log entries so far; what is no JSON object (gRPC's own lines) is left out."""
        with self._changed:
            return [json.loads(line) for line in self._lines if line.startswith("{")]

    def wait_for_log(self, message: str) -> dict[str, Any]:
        """The first log entry with that message, as soon as there is one."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while True:
                for line in self._lines:
                    if line.startswith("{") and json.loads(line)["message"] == message:
                        return dict(json.loads(line))
                assert not self._ended, "the process ended without it:\n" + "\n".join(self._lines)
                assert self._changed.wait(deadline - time.monotonic()), "\n".join(self._lines)

    @property
    def addresses(self) -> list[str]:
        """Where it serves; waits until it does."""
        return list(self.wait_for_log("serving")["addresses"])

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Waits for the end of the process and of its output."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
