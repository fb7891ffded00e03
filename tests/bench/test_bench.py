"""The bench itself: that it measures and says what it promises to. Figures are no part of a test."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.__main__ import FIGURES
from tests.bench.connection import quantile
from tests.bench.processes import ROOT
from tests.bench.report import Report, Row, Section, Spread

_TIMEOUT_S = 100


def _bench(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text(encoding="ascii").split()):
            found += [child, *_descendants(child)]
    return found


def test_passthrough_report_has_its_shape(tmp_path: Path) -> None:
    """A run writes the promised figure, positive rows for each server and transport, and where it ran."""
    out = tmp_path / "report.json"
    bench = _bench("--only", "passthrough", "--rounds", "2", "--requests", "20", "--out", str(out))
    printed, _ = bench.communicate(timeout=_TIMEOUT_S)

    assert bench.returncode == 0, printed
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == {"figures", "sections", "missing", "machine", "versions", "date", "took_s"}
    assert tuple(report["figures"]) == FIGURES
    assert [name for name, value in report["figures"].items() if value is not None] == ["passthrough_x_echo_p50"]
    assert report["figures"]["passthrough_x_echo_p50"] > 0
    assert report["missing"] == dict.fromkeys(["decision", "models", "start", "install"], "--only")
    assert report["machine"]["cpus"] >= 1
    assert report["versions"]["grpcio"]
    rows = report["sections"]["passthrough"]["rows"]
    assert len(rows) == 8
    for row in rows:
        is_sidecar = row["name"].startswith("sidecar")
        ratios = {"x_echo_p50", "x_echo_p99", "x_same_size_p50"} if is_sidecar else set()
        assert set(row["values"]) == {"p50_ms", "p99_ms", "cpu_ms"} | ratios
        for figure in row["values"].values():
            assert 0 < figure["low"] <= figure["median"] <= figure["high"]
            assert figure["rounds"] == 2
        assert row["values"]["p50_ms"]["median"] <= row["values"]["p99_ms"]["median"]


def test_interrupted_bench_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and no traceback, writes nothing, and every server and model process is gone."""
    out = tmp_path / "report.json"
    bench = _bench("--only", "passthrough", "--out", str(out))
    end = time.monotonic() + _TIMEOUT_S
    while len(children := _descendants(bench.pid)) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(children) >= 3
    bench.send_signal(signal.SIGINT)
    printed, _ = bench.communicate(timeout=_TIMEOUT_S)

    assert bench.returncode == 130
    assert "Traceback" not in printed
    assert not out.exists()
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_unwritable_report_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """A report that can't be written fails before anything is measured, with its name and no traceback."""
    (tmp_path / "file").touch()
    bench = _bench("--out", str(tmp_path / "file" / "report.json"))
    printed, _ = bench.communicate(timeout=_TIMEOUT_S)

    assert bench.returncode == 1
    assert "report.json can't be written" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (0.001, 1), (1.0, 100)])
def test_quantile_is_the_nearest_rank(share: float, expected: int) -> None:
    """Of 1 to 100, the quantile is the value itself."""
    assert quantile(list(range(100, 0, -1)), share) == expected


def test_spread_is_median_and_extremes_of_the_rounds() -> None:
    """Median, smallest and largest of the rounds, and how many there were; none is refused."""
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0, 4)
    with pytest.raises(ValueError, match="at least one round"):
        Spread.of([])


def test_report_has_the_followed_figures_in_order() -> None:
    """Of all sections' figures those that are followed, in the given order, null where not measured; and details."""
    sections = {
        "one": Section("t", [Row("r", {"x": Spread.of([1.0])})], {"start_s": 0.5, "other": 1.0}),
        "two": Section("t", [], {"decision_us": 2.5}),
    }
    followed = ("decision_us", "memory_mb", "start_s")
    report = Report(followed, sections, {"memory": "no such file"}, 1.0, {"contenders": {"a": {"threads": 2}}})
    written = json.loads(json.dumps(report.as_json()))

    assert list(written["figures"].items()) == [("decision_us", 2.5), ("memory_mb", None), ("start_s", 0.5)]
    assert list(report.figures()) == ["decision_us", "start_s"]
    assert written["contenders"] == {"a": {"threads": 2}}
    assert written["missing"] == {"memory": "no such file"}
