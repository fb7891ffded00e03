"""What a calibration leaves behind: files in its folder, lines on the console."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from judged_cases import SERVICE, SOURCE, judged_lists, latency_samples, profile
from rich.console import Console

from sidecar.calibrate.report.build import build
from sidecar.calibrate.report.console import changes, next_steps, summary
from sidecar.calibrate.report.files import Files
from sidecar.calibrate.report.gate import Change
from sidecar.calibrate.report.readout import ReadOut, read_json
from sidecar.settings import load


@pytest.fixture(scope="module")
def readout() -> ReadOut:
    """One arm that helps."""
    lists = judged_lists(30, skill={"bm25": 1.0, "late": 1.5})
    fitted = profile({"late": [(10, 0.1), (50, 0.2)]})
    samples = latency_samples({"late": 0.3})
    source = replace(SOURCE, warnings=("only [30] queries",))
    return build(lists, samples, fitted, lambda half: fitted, ks=(10, 50), source=source, service=SERVICE)


def said(write: object, *arguments: object) -> str:
    """What is printed."""
    out = io.StringIO()
    write(Console(file=out, width=120), *arguments)  # type: ignore[operator]
    return out.getvalue()


def test_a_folder_holds_profile_report_and_plots(readout: ReadOut, tmp_path: Path) -> None:
    """These six files, no unfinished ones, and the profile's bytes as they were given."""
    files = Files(tmp_path / "new" / "folder")
    files.write(readout, b'{"made": "up"}')
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "curve.png",
        "pareto.png",
        "profile.json",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert files.profile.read_bytes() == b'{"made": "up"}'
    assert read_json(files.json) == readout


def test_a_second_calibration_replaces_the_first(readout: ReadOut, tmp_path: Path) -> None:
    """The same names, the new contents."""
    files = Files(tmp_path)
    files.write(readout, b"{}")
    files.write(replace(readout, corpus="other"), b"[]")
    assert files.profile.read_bytes() == b"[]"
    assert read_json(files.json).corpus == "other"


def test_the_summary_has_the_verdict_the_table_and_the_notes(readout: ReadOut) -> None:
    """Square brackets of a note are text, not markup."""
    text = said(summary, readout)
    assert readout.verdict.headline in text
    assert f"{readout.points[1].ndcg10:.3f}" in text
    assert "Note: only [30] queries" in text


def test_changes_mark_regressions() -> None:
    """And only these."""
    text = said(changes, [Change("late@50", "worse", regression=True), Change("cross@50", "new, on")], "earlier.json")
    assert "REGRESSION late@50: worse" in text
    assert "REGRESSION cross@50" not in text
    assert "no difference beyond chance" in said(changes, [], "earlier.json")


def test_the_configuration_lines_can_be_copied(readout: ReadOut, tmp_path: Path) -> None:
    """They are TOML that names the profile, however long its path is, and Millirank's settings take them."""
    files = Files(tmp_path / ("long " * 30).strip())
    line = next(line for line in said(next_steps, readout, files).splitlines() if "profiles" in line)
    configuration = tmp_path / "millirank.toml"
    configuration.write_text(line, encoding="utf-8")
    assert load(configuration, {}).profiles == (str(files.profile),)


def test_a_profile_of_its_own_corpus_says_how_requests_name_it(readout: ReadOut, tmp_path: Path) -> None:
    """The default corpus needs no name."""
    assert "corpus='made-up'" in said(next_steps, readout, Files(tmp_path))
    assert "replaces the built-in profile" in said(next_steps, replace(readout, corpus="default"), Files(tmp_path))
