"""One small program for each language, that calls a sidecar by the bare stub and by the client in turn."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.held_signals import held_signals
from tests.bench.processes import ROOT
from tests.bench.report import BenchError

_TIMEOUT_S = 600
_MAVEN = ("mvn", "--batch-mode", "--no-transfer-progress", "--quiet", "--file", "clients/java", "--projects", "client")
_EXEC = "org.codehaus.mojo:exec-maven-plugin:3.5.1:exec"

Took = Mapping[str, Sequence[Sequence[float]]]
"""``stub`` and ``client``: what each call of each round took, in ms."""


class ToolchainMissingError(BenchError):
    """A language can't be measured here, which is no failure."""


@dataclass(frozen=True, slots=True)
class Program:
    """``build`` makes it in a folder and returns its command line.

    ``warm_up`` calls of each kind do not count: a JVM compiles meanwhile.
    """

    name: str
    warm_up: int
    build: Callable[[Path], Sequence[str]]

    def figures(self, transport: str) -> tuple[str, str]:
        """What the p50 and the p99 over ``tcp`` or ``unix`` are called."""
        over = "" if transport == "tcp" else f"_{transport}"
        return f"{self.name.lower()}_added_ms{over}", f"{self.name.lower()}_added_p99_ms{over}"

    def measure(self, command: Sequence[str], target: str, rounds: int, calls: int) -> Mapping[str, Took]:
        """What calls to ``target`` took, by client. Raises BenchError."""
        numbers = (str(rounds), str(calls), str(self.warm_up))
        printed = _run([*command, target, *numbers], f"the {self.name} program")
        measured: Mapping[str, Took] = json.loads(printed.splitlines()[-1])
        return measured


def _python(folder: Path) -> Sequence[str]:
    return (sys.executable, "-m", "tests.bench.clients.python_program")


def _go(folder: Path) -> Sequence[str]:
    if shutil.which("go") is None:
        raise ToolchainMissingError("SKIPPED: no go toolchain found; install Go 1.26")
    built = folder / "bench-go"
    _run(["go", "build", "-C", "clients/go", "-o", str(built), "./bench"], "building the Go program")
    return (str(built),)


def _java(folder: Path) -> Sequence[str]:
    if shutil.which("javac") is None or shutil.which("mvn") is None:
        raise ToolchainMissingError("SKIPPED: no JDK or no Maven found; install a JDK 17 and Maven 3.8, or newer")
    # Maven compiles it and knows its class path; a JVM of its own then runs it, without what Maven has loaded.
    path = folder / "class-path"
    echo = ("-Dexec.executable=echo", "-Dexec.classpathScope=test", "-Dexec.args=%classpath")
    _run([*_MAVEN, "test-compile", _EXEC, *echo, f"-Dexec.outputFile={path}"], "building the Java program")
    return ("java", "-cp", path.read_text(encoding="utf-8").strip(), "io.millirank.client.ClientBench")


PROGRAMS = (
    Program("Go", 500, _go),
    Program("Java", 5_000, _java),
    Program("Python", 200, _python),
)


def _run(command: Sequence[str], what: str) -> str:
    """What it prints. Raises BenchError with its last words. Ends with this process, also by Ctrl-C."""
    process = None
    try:
        with held_signals():
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        printed, complaints = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not end within {_TIMEOUT_S} s") from None
    finally:
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        words = [*printed.splitlines(), *complaints.splitlines()] or ["it said nothing"]
        raise BenchError(f"{what} ended with exit code {process.returncode}: {words[-1]}")
    return printed
