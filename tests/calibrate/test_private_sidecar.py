"""Sidecars of a command's own, as processes: none is left, however the command ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sidecar_process import REPOSITORY, clean_environment

_OWNER = """
import sys, time
from pathlib import Path
from sidecar.calibrate.private_sidecar import reachable, sidecar

with sidecar(Path(sys.argv[1]), "own", {}) as child, reachable(child):
    print(child.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket's path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def alive(pid: int) -> bool:
    """Zombies count as dead."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to see who is alive")
def test_a_killed_command_leaves_no_sidecar(folder: Path) -> None:
    """SIGKILL, which nobody can handle: the sidecar notices the end of its standard input, and its workers end too."""
    environment = clean_environment()
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(folder)], stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY
    ) as owner:
        assert owner.stdout is not None
        own = int(owner.stdout.readline())
        deadline = time.monotonic() + 20.0
        while not (workers := children(own)):
            assert time.monotonic() < deadline, "no worker was started"
            time.sleep(0.05)
        owner.kill()
    deadline = time.monotonic() + 20.0
    while any(map(alive, (own, *workers))):
        assert time.monotonic() < deadline, f"alive: {[pid for pid in (own, *workers) if alive(pid)]}"
        time.sleep(0.05)


def test_a_file_as_standard_input_is_refused() -> None:
    """It never ends while it is watched: exit code 2, and the message says what is needed."""
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "serve", "--stop-with-stdin"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**clean_environment(), "MILLIRANK_LISTEN__TCP": "127.0.0.1:0"},
        cwd=REPOSITORY,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "millirank serve: --stop-with-stdin needs a pipe as standard input, or a terminal\n"
