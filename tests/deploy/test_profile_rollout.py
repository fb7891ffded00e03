"""Profiles as a pod gets them: a ConfigMap's folder, written as a kubelet writes it, under a running sidecar."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from millirank import Client

from tests.e2e.sidecar_process import NO_MODELS, PATIENCE_S, SidecarProcess
from tests.helpers import arm_data, profile_data


class Mounted:
    """A ConfigMap volume. Files are links through ``..data``, a link to a folder that is made anew for every update;
    that one link is replaced in a single step, and the old folder goes (Kubernetes' AtomicWriter)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        self.update({})

    def update(self, files: Mapping[str, str]) -> None:
        """What the kubelet does, up to a minute after the ConfigMap has changed."""
        self._version += 1
        data = self.folder / "..data"
        before = data.resolve() if data.exists() else None
        versioned = self.folder / f"..2026_11_25.{self._version}"
        versioned.mkdir()
        for name, text in files.items():
            (versioned / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(versioned.name)
        (self.folder / "..data_tmp").rename(data)
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for link in self.folder.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if before is not None:
            shutil.rmtree(before)


def profile(corpus: str, gain: float) -> str:
    return json.dumps(profile_data(corpus, signals=arm_data("signals", gain=gain)))


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


def revision(address: str, corpus: str) -> str:
    """Of the profile that decides for this corpus."""
    with Client(address) as client:
        decision = client.explain("q", ["a", "b"], corpus=corpus, budget_ms=1000, timeout_ms=10_000)
    return decision.profile_revision


def wait_for(sidecar: SidecarProcess, message: str, count: int) -> None:
    """Until the sidecar has logged ``message`` that often."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(entry["message"] == message for entry in sidecar.logs) < count:
        assert time.monotonic() < deadline, sidecar.output
        time.sleep(0.05)


def test_a_profile_appears_changes_breaks_and_goes(mounted: Mounted) -> None:
    """The pod starts without one; each swap of the folder is noticed; one that can't be used changes nothing; and when
    it is taken away the built-in profile decides again."""
    variables = {**NO_MODELS, "MILLIRANK_PROFILES": json.dumps([str(mounted.folder)])}
    with SidecarProcess(variables) as sidecar:
        (address,) = sidecar.addresses
        built_in = revision(address, "legal")
        mounted.update({"legal.json": profile("legal", 0.1)})
        wait_for(sidecar, "profiles reloaded", 1)
        first = revision(address, "legal")
        mounted.update({"legal.json": profile("legal", 0.2)})
        wait_for(sidecar, "profiles reloaded", 2)
        second = revision(address, "legal")
        assert len({built_in, first, second}) == 3
        mounted.update({"legal.json": "{"})
        wait_for(sidecar, "profiles refused, the old ones stay", 1)
        assert revision(address, "legal") == second
        mounted.update({})
        wait_for(sidecar, "profiles reloaded", 3)
        assert revision(address, "legal") == built_in
