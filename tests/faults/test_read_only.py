"""A container whose root is read-only and whose user is nobody: only the socket's directory can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from millirank import Client, Outcome

from tests.e2e.sidecar_process import SidecarProcess
from tests.faults.watched import PASSAGES, QUERY, ROOMY_MS, until

# $1 stays writable. What is a mount of its own (a container has no such) becomes read-only with the root.
_READ_ONLY = """
mount --bind "$1" "$1"
mount -o remount,bind,ro /
for each in /tmp /var/tmp "$HOME"; do
  if mountpoint -q "$each"; then mount -o remount,bind,ro "$each"; fi
done
if touch "$2" 2>/dev/null; then echo "it is not read-only" >&2; exit 1; fi
shift 2
exec "$@"
"""
_NOBODY = 65534


def _wrapper(folder: Path) -> list[str]:
    """The command that runs the rest of its line on a read-only root, as nobody where this user may become that."""
    root = os.getuid() == 0
    namespace = ["unshare", "--mount", *([] if root else ["--map-root-user"])]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("unshare is not there or not allowed: no read-only root can be made")
    wrapper = [*namespace, "sh", "-ec", _READ_ONLY, "sh", str(folder), str(Path(__file__).with_name("written"))]
    if root and shutil.which("setpriv"):
        folder.chmod(0o777)
        # It may read what root may: a checkout in root's home would be closed to nobody otherwise.
        capability = "dac_read_search"
        wrapper += ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        wrapper += [f"--inh-caps=-all,+{capability}", f"--ambient-caps=-all,+{capability}"]
    return wrapper


def test_read_only_root_and_nobody(tmp_path: Path) -> None:
    """It starts, ranks with its models, keeps vectors where it may, drains, and neither warns nor leaves a file."""
    folder = tmp_path / "writable"
    folder.mkdir()
    socket, vectors = folder / "m.sock", folder / "vectors.db"
    variables = {
        "MILLIRANK_LISTEN__TCP": "",
        "MILLIRANK_LISTEN__UNIX": str(socket),
        "MILLIRANK_RERANKERS__MINILM_L6__VECTOR_FILE": str(vectors),
        "TMPDIR": "/tmp",  # noqa: S108 - read-only there
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with SidecarProcess(variables, wrapper=_wrapper(folder)) as sidecar, Client(f"unix:{socket}") as client:
        assert sidecar.addresses == [f"unix:{socket}"]
        ranked = lambda: client.rerank(QUERY, PASSAGES, budget_ms=ROOMY_MS, use_cache=False)  # noqa: E731
        until(lambda: ranked().outcome is Outcome.RANKED, "it ranks")
        user = Path(f"/proc/{sidecar.pid}").stat().st_uid
        assert user == (os.getuid() or _NOBODY)
        until(lambda: vectors.stat().st_size > 0, "vectors are kept")
        time.sleep(0.2)
        sidecar.signal()
        assert sidecar.exit_code() == 0
        assert [entry for entry in sidecar.logs if entry["level"] in {"warning", "error"}] == []
    assert {path.name for path in folder.iterdir()} <= {
        "vectors.db",
        "vectors.db.lock",
        "vectors.db-wal",
        "vectors.db-shm",
    }
