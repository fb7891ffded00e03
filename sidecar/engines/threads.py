"""How many threads a model may use on this machine, seen from inside its container."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")


def usable_cpus(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int:
    """CPUs this process may really use: the smaller of its affinity and its cgroup's quota, rounded down, at least 1.

    The quota is read from cgroup v2 (``cpu.max``) and v1 (``cpu.cfs_quota_us``), for the process's own group and all
    groups above it, since the tightest one counts. Threads beyond a quota are throttled in the middle of a request.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    cpus = float(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)
    for folder in _groups(root, proc_cgroup):
        quota = _quota(folder)
        if quota is not None:
            cpus = min(cpus, quota)
    return max(1, int(cpus))


def default_threads() -> int:
    """Threads for a model: every usable CPU but one, which is left for the event loop; at least 1."""
    return max(1, usable_cpus() - 1)


def _groups(root: Path, proc_cgroup: Path) -> list[Path]:
    """Folders that may hold a CPU quota of this process."""
    try:
        lines = proc_cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    folders = {root, root / "cpu", root / "cpu,cpuacct"}  # inside a container its own group is mounted as the root
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers  # v2 has one tree and names no controller, v1 a tree for each
        folder = top / path.lstrip("/")
        while folder != top:
            folders.add(folder)
            folder = folder.parent
    return sorted(folders)


def _quota(folder: Path) -> float | None:
    """CPUs that the quota of one group allows; None when it has no limit or the files are not there."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0:  # "max" (v2) and "-1" (v1): no limit
        return None
    return int(quota) / int(period)
