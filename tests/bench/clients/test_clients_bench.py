"""The bench of the clients: that it measures and says what it promises to. Figures are no part of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.processes import ROOT

_TIMEOUT_S = 120
_ALWAYS = {"go_added_ms", "java_added_ms", "python_added_ms", "passthrough_x_echo_p50", "passthrough_x_echo_p99"}


def _bench(out: Path, *arguments: str, path: str | None = None) -> tuple[int, str, dict[str, Any]]:
    environment = {**os.environ, "PATH": os.environ["PATH"] if path is None else path}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.clients", "--rounds", "2", "--calls", "10", "--out", str(out), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    report = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return done.returncode, done.stdout + done.stderr, report


def test_report_has_its_shape(tmp_path: Path) -> None:
    """Every promised figure is there, null where it was not asked for; rows for both clients over both transports."""
    code, printed, report = _bench(tmp_path / "report.json", "--only", "python")

    assert code == 0, printed
    assert set(report["figures"]) >= _ALWAYS
    measured = {name for name, value in report["figures"].items() if value is not None}
    assert measured == {f"python_added_{kind}ms{over}" for kind in ("", "p99_") for over in ("", "_unix")}
    assert report["missing"] == dict.fromkeys(["go", "java", "passthrough"], "--only")
    rows = {row["name"]: row["values"] for row in report["sections"]["python"]["rows"]}
    assert set(rows) == {f"Python{kind}, {over}" for kind in ("", ", asyncio") for over in ("tcp", "unix")}
    for values in rows.values():
        assert values["stub_p50_ms"]["median"] > 0
        assert values["client_p50_ms"]["median"] > 0
        assert values["added_p50_ms"]["rounds"] == 2


@pytest.mark.parametrize(("part", "toolchain"), [("go", "go toolchain"), ("java", "JDK or no Maven")])
def test_missing_toolchain_is_a_skip_by_name(tmp_path: Path, part: str, toolchain: str) -> None:
    """Without Go or Java there is no failure, and no silence: a line that names what to install, and a null figure."""
    code, printed, report = _bench(tmp_path / "report.json", "--only", part, path=str(tmp_path))

    assert code == 0, printed
    assert f"SKIPPED: no {toolchain}" in printed
    assert report["missing"][part].startswith("SKIPPED")
    assert report["figures"][f"{part}_added_ms"] is None


def test_a_program_that_fails_is_a_failure(tmp_path: Path) -> None:
    """A toolchain that is there and does not work is named with its last words, and the exit code says so."""
    broken = tmp_path / "go"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    code, printed, report = _bench(tmp_path / "report.json", "--only", "go", path=f"{tmp_path}:/usr/bin:/bin")

    assert code == 1, printed
    assert report["missing"]["go"] == "building the Go program ended with exit code 3: out of order"
