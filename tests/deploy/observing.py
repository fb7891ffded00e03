"""What the tests of watching share: tools that may be missing, programs beside the test, and JSON over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from tests.e2e.sidecar_process import PATIENCE_S, REPOSITORY, clean_environment

DEPLOY = REPOSITORY / "deploy"
_Found = TypeVar("_Found")


def tool(name: str, how: str) -> str:
    """The path of a program that `make deploy-tools` has built, or that is installed; without it the test is skipped,
    naming the program and ``how`` to get it."""
    built = REPOSITORY / "build" / "deploy-tools"
    found = shutil.which(name, path=f"{built}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is missing: {how}")
    return found


def free_address() -> str:
    """A loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def get(url: str) -> bytes:
    """The body of an answer. Raises OSError (URLError, HTTPError)."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - ours, on loopback
        return bytes(answer.read())


def get_json(url: str) -> Any:
    """The same, decoded."""
    return json.loads(get(url))


def eventually(look: Callable[[], _Found | None], words: str = "", patience_s: float = PATIENCE_S) -> _Found:
    """What ``look`` finds, as soon as it finds anything; a refused connection is nothing yet."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            found = look()
        except (urllib.error.URLError, ConnectionError) as error:
            found, words = None, f"{words} {error}"[-400:]
        if found:
            return found
        assert time.monotonic() < deadline, f"nothing within {patience_s} s. {words}"
        time.sleep(0.2)


class Program:
    """``with Program(command) as program``: runs until the block ends, then gets SIGTERM; its output is kept."""

    def __init__(self, command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            env=clean_environment(**(variables or {})),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything that it printed so far."""
        return "".join(tuple(self._lines))

    def alive(self) -> None:
        """Fails with its output when it has ended."""
        assert self._process.poll() is None, self.output

    def wait_for_line(self, text: str) -> str:
        """The first line that holds ``text``."""

        def look() -> str | None:
            found = next((line for line in tuple(self._lines) if text in line), None)
            if found is None:
                self.alive()
            return found

        return eventually(look, f"no line with {text!r}")

    def interrupt(self) -> int:
        """Ctrl-C as a terminal sends it, to the program and all that it started; its exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        return self._process.wait(PATIENCE_S)

    def end(self) -> int:
        """SIGTERM, and its exit code; what it may have left behind is killed."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        self._reader.join(PATIENCE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
