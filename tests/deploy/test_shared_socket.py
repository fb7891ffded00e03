"""The socket on the volume that a pod shares: who may connect to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sidecar_process import NO_MODELS, SidecarProcess

FS_GROUP = 10001
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture
def volume() -> Iterator[Path]:
    """As a kubelet makes an emptyDir for a pod with an fsGroup: of that group, which new files inherit."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can run a process as another user, with setpriv")
    # Not below pytest's own folder, which only its user may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        path.mkdir()
        Path(folder).chmod(0o755)
        os.chown(path, 0, FS_GROUP)
        path.chmod(0o2777)
        yield path


def connects(path: Path, groups: str) -> bool:
    """Whether a process of another user, with these supplementary groups, gets a connection."""
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    assert python is not None
    user = ["setpriv", "--reuid=10002", "--regid=10002", f"--groups={groups}"]
    ended = subprocess.run(
        [*user, python, "-c", CONNECT, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0 or "PermissionError" in ended.stderr, ended.stderr
    return ended.returncode == 0


def test_the_pods_group_opens_the_socket(volume: Path) -> None:
    """The application's container, whatever its user, is in the pod's fsGroup and may connect; whoever is not in it
    may not, although the volume itself is open to all."""
    path = volume / "millirank.sock"
    with SidecarProcess(NO_MODELS | {"MILLIRANK_LISTEN__TCP": "", "MILLIRANK_LISTEN__UNIX": str(path)}) as sidecar:
        assert sidecar.addresses == [f"unix:{path}"]
        assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (FS_GROUP, 0o660)
        assert connects(path, str(FS_GROUP))
        assert not connects(path, "10003")
