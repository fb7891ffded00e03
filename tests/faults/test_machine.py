"""The machine under the sidecar: its clock steps, its disk is full."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from millirank import Outcome

from tests.faults.watched import PASSAGES, ROOMY_MS, Watched, children, until, watched

HOUR_S = 3600


@pytest.fixture(scope="module")
def wall_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a process's wall clock step, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C compiler: the wall clock can't be made to step")
    library = tmp_path_factory.mktemp("clock") / "wall_clock.so"
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run(
        [compiler, "-x", "c", "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True
    )
    return library


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forwards", "backwards"])
def test_wall_clock_steps_by_an_hour(wall_clock: Path, tmp_path: Path, step_s: int) -> None:
    """Budgets follow the monotonic clock: after the step every answer is as good and as timely as before."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    with watched({"LD_PRELOAD": str(wall_clock), "WALL_CLOCK": str(offset)}) as running:
        assert running.ask(budget_ms=1000.0).outcome is Outcome.RANKED
        logged_before = len(running.sidecar.logs)
        offset.write_text(str(step_s))
        for _ in range(10):
            answer = running.ask(budget_ms=1000.0)
            assert answer.outcome is Outcome.RANKED, answer.degradations
        # The step was real: what the process logs from now on is an hour off.
        running.sidecar.signal(15)
        running.sidecar.exit_code()
        stamp = running.sidecar.logs[logged_before]["time"]
        assert abs(_hours_off(stamp) - step_s / HOUR_S) < 0.1


def _hours_off(stamp: str) -> float:
    from datetime import UTC, datetime

    return (datetime.fromisoformat(stamp) - datetime.now(UTC)).total_seconds() / HOUR_S


def test_disk_that_is_full_while_vectors_are_kept(tmp_path: Path) -> None:
    """Vectors that can't be written cost nothing but warmth after a restart: answers go on, in time, and the log says
    so once. A limit on the size of files stands in for the full disk."""
    path = tmp_path / "vectors.db"
    variables = {
        "MILLIRANK_RERANKERS__MINILM_L6__VECTOR_FILE": str(path),
        "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "false",
    }
    with watched(variables) as running:
        until(path.exists, "the file is there")
        for pid in children(running.sidecar.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))
        for turn in range(6):
            fresh = [f"{text} In edition {turn} of it, number {at}." for at, text in enumerate(PASSAGES)]
            assert running.ask(fresh).outcome is not Outcome.FIRST_STAGE
        until(lambda: "used no more" in running.sidecar.output, "the log says that the file is used no more")
        running.settled()
        assert running.sidecar.output.count("used no more") == 1


def test_no_descriptors_left(shared: Watched) -> None:
    """A process that may open nothing more goes on answering on the connections it has, and accepts again later."""
    pid = shared.sidecar.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), hard))
    try:
        for _ in range(3):
            assert shared.ask(budget_ms=ROOMY_MS).outcome is Outcome.RANKED
            time.sleep(0.05)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    shared.settled()
