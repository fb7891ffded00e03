"""Calibration as a gate: too small a gain, and what is worse than at an earlier calibration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from judged_cases import SERVICE, SOURCE, judged_lists, latency_samples, profile

from router.profile import Profile
from sidecar.calibrate.report.build import build
from sidecar.calibrate.report.gate import below, compare, read_earlier
from sidecar.calibrate.report.readout import ReadOut, ReadOutError, write_json
from sidecar.profiles import BUILT_IN

FITTED = profile({"signals": [(10, 0.05), (50, 0.1)], "late": [(10, 0.1), (50, 0.25)]}, ms_per_token=0.03)


def calibrated(*, skill: float = 1.5, pace: float = 0.3, fitted: Profile = FITTED) -> ReadOut:
    """One calibration of the same queries; ``skill`` and ``pace`` of the model may differ."""
    lists = judged_lists(60, skill={"bm25": 1.0, "late": skill})
    samples = latency_samples({"late": pace})
    return build(lists, samples, fitted, lambda half: fitted, ks=(10, 25, 50), source=SOURCE, service=SERVICE)


@pytest.fixture(scope="module")
def earlier() -> ReadOut:
    """A good model."""
    return calibrated()


def test_the_gate_looks_at_the_routers_gain_within_the_default_budget(earlier: ReadOut) -> None:
    """Open at its gain, shut just above it, in words."""
    gain = earlier.recommended(100.0, "warm").gain.mean
    assert below(earlier, gain) == ""
    assert f"gains {gain:+.4f} nDCG@10 within 100 ms (late@50), less than" in below(earlier, gain + 1e-6)


def test_equal_calibrations_differ_in_nothing(earlier: ReadOut) -> None:
    """No change, so no regression."""
    assert compare(earlier, calibrated(), FITTED) == []


def test_a_worse_model_is_a_regression_that_fails(earlier: ReadOut) -> None:
    """Beyond the paired interval, and first in the list; first-stage order is the same and not listed."""
    changes = compare(earlier, calibrated(skill=0.2), FITTED)
    assert changes[0].fails
    assert {change.what for change in changes if change.fails} >= {
        "late@50",
        "what the router answers within 100 ms, warm documents",
    }
    assert "first-stage order" not in {change.what for change in changes}


def test_a_better_model_is_a_change_but_no_regression(earlier: ReadOut) -> None:
    """The same the other way round."""
    changes = compare(calibrated(skill=0.2), earlier, FITTED)
    assert changes
    assert not any(change.regression or change.fails for change in changes)


def test_a_slower_model_is_marked_and_does_not_fail(earlier: ReadOut) -> None:
    """Another machine is enough for that."""
    changes = compare(earlier, calibrated(pace=0.6), FITTED)
    slower = [change for change in changes if "p50 add" in change.words]
    assert [(change.regression, change.fails) for change in slower] == [(True, False)]
    assert not any(change.fails for change in changes)


def test_a_little_slower_is_no_change(earlier: ReadOut) -> None:
    """Two runs of one machine differ by some per cent."""
    assert compare(earlier, calibrated(pace=0.31), FITTED) == []


def test_an_arm_that_was_switched_off_says_why(earlier: ReadOut) -> None:
    """From on to off, with the reason."""
    off = profile({"signals": [(50, 0.1)], "late": [(50, 0.25)]}, lower=-0.5, ms_per_token=0.03)
    words = {change.what: change.words for change in compare(earlier, calibrated(fitted=off), off)}
    assert words["late"].startswith("on -> off: it may hurt")


def test_an_arm_that_is_gone_or_new_is_a_change(earlier: ReadOut) -> None:
    """By name, both ways."""
    without = replace(earlier, curves=tuple(curve for curve in earlier.curves if curve.reranker != "late"))
    assert [c.words for c in compare(earlier, without, FITTED)] == ["was calibrated then and is not measured now"]
    assert [c.words for c in compare(without, earlier, FITTED)] == ["new, on"]


def test_reports_of_other_queries_are_not_compared(earlier: ReadOut) -> None:
    """Paired means the same queries."""
    other = replace(earlier, query_ids=tuple(f"other-{name}" for name in earlier.query_ids))
    with pytest.raises(ReadOutError, match="no query in common"):
        compare(other, earlier, FITTED)


def test_only_the_common_queries_are_compared(earlier: ReadOut) -> None:
    """A sample of the queries, in another order, finds no difference to all of them."""
    half = slice(None, None, -2)
    fewer = replace(
        earlier,
        query_ids=earlier.query_ids[half],
        points=tuple(replace(point, per_query=point.per_query[half]) for point in earlier.points),
        recommendations=tuple(replace(r, per_query=r.per_query[half]) for r in earlier.recommendations),
    )
    assert compare(fewer, earlier, FITTED) == []


def test_an_earlier_profile_promises_what_is_measured_now(earlier: ReadOut) -> None:
    """A gain that was expected and lies above the interval measured now is a regression; a latency prior that has
    changed is shown."""
    promised = profile({"late": [(10, 0.1), (50, 0.9)]}, ms_per_token=0.02)
    changes = {change.words: change for change in compare(promised, earlier, FITTED)}
    (broken,) = [change for words, change in changes.items() if "+0.900 expected then" in words]
    assert broken.fails
    assert "latency prior 5.0 ms + 20.0 per 1k tokens -> 5.0 ms + 30.0 per 1k tokens" in changes


def test_both_kinds_of_files_are_read(earlier: ReadOut, tmp_path: Path) -> None:
    """report.json by its format, anything else as a profile."""
    write_json(tmp_path / "report.json", earlier)
    assert read_earlier(tmp_path / "report.json") == earlier
    assert isinstance(read_earlier(BUILT_IN), Profile)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "can't be read"), ("{", "not valid JSON"), (json.dumps({"format": "x"}), "neither a report.json nor")],
)
def test_other_files_are_refused(content: str | None, words: str, tmp_path: Path) -> None:
    """With the file's name and what is wrong."""
    path = tmp_path / "earlier.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ReadOutError, match=words):
        read_earlier(path)
