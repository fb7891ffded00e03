"""The load bench itself: what it counts, and that a run writes what it promises. Figures are no part of a test."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.load.generator import Kind, Seen
from tests.bench.load.meters import Reading
from tests.bench.load.summary import recovery_s, summarise
from tests.bench.load.traffic import Rate, moments
from tests.bench.processes import ROOT

_TIMEOUT_S = 110


def seen(kind: Kind = Kind.FULL, latency_ms: float = 40.0, scored: int = 50, at_s: float = 0.0) -> Seen:
    """A request with a budget of 50 ms."""
    return Seen(at_s, 50.0, 0.0, latency_ms, kind, planned_k=50, scored=scored, score_ms=10.0)


def test_arrivals_are_a_poisson_process() -> None:
    """10 a second for 400 s, then 100 a second for 100 s: as many as that within 5 %, in order, reproducible."""
    rates = [Rate(10.0, 400.0), Rate(100.0, 100.0)]
    first = list(moments(rates, random.Random(1)))
    assert first == list(moments(rates, random.Random(1)))
    assert first == sorted(first)
    assert sum(moment < 400 for moment in first) == pytest.approx(4000, rel=0.05)
    assert sum(moment >= 400 for moment in first) == pytest.approx(10_000, rel=0.05)
    gaps = [later - earlier for earlier, later in itertools.pairwise(first[:3000])]
    mean = sum(gaps) / len(gaps)
    # An exponential distribution's standard deviation is its mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize(("latency_ms", "in_budget"), [(55.0, True), (55.1, False)])
def test_in_budget_is_five_milliseconds_late_at_most(latency_ms: float, in_budget: bool) -> None:
    """Budget + max(5 ms, 2 %)."""
    assert seen(latency_ms=latency_ms).in_budget is in_budget
    assert Seen(0.0, 1000.0, 0.0, 1020.0, Kind.FULL).in_budget
    assert not Seen(0.0, 1000.0, 0.0, 1020.1, Kind.FULL).in_budget


def test_useful_is_in_time_from_the_sidecar_with_sixteen_scored() -> None:
    """Neither the client's own ordering, nor 15 documents, nor a late answer."""
    assert seen(Kind.PARTIAL, scored=16).useful
    assert not seen(Kind.PARTIAL, scored=15).useful
    assert not seen(Kind.FALLBACK, scored=0).useful
    assert not seen(latency_ms=60.0).useful


def test_summary_by_hand() -> None:
    """Four requests, one of each kind: shares, coverage, and the computing time that nobody got."""
    four = [
        seen(),
        seen(Kind.PARTIAL, scored=20),
        Seen(0.0, 50.0, 2.0, 51.0, Kind.FALLBACK),
        Seen(0.0, 50.0, 0.0, 5.0, Kind.FIRST_STAGE),
    ]
    summary = summarise(four, seconds=2.0, computed_ms=40.0, loop_lag_p99_ms=1.0, other_cpus=0.5)
    assert (summary.full, summary.partial, summary.fallback, summary.first_stage) == (0.25, 0.25, 0.25, 0.25)
    assert (summary.useful, summary.in_budget, summary.errors) == (0.5, 1.0, 0)
    assert summary.coverage == pytest.approx(70 / 200)
    assert summary.wasted == pytest.approx(0.5)
    assert (summary.per_s, summary.p50_ms, summary.p999_ms) == (2.0, 40.0, 51.0)


def test_recovery_is_when_answers_are_useful_again() -> None:
    """Useful before second 1, not until second 3.5, a fall of the rate at second 2: recovered after 1.5 s."""
    many = [seen(scored=50 if at < 100 or at >= 350 else 0, at_s=at / 100) for at in range(600)]
    assert recovery_s(many, rose_s=1.0, fell_s=2.0) == pytest.approx(1.5, abs=0.02)
    never = [seen(scored=50 if at < 100 else 0, at_s=at / 100) for at in range(600)]
    assert recovery_s(never, rose_s=1.0, fell_s=2.0) is None


def test_loop_lag_is_read_from_cumulative_buckets() -> None:
    """Of 100 delays since the earlier reading 98 are up to 1 ms and 2 up to 5 ms: the 99th percentile is 5 ms."""
    earlier = Reading((1.0, 5.0), (10, 0, 7), 0.0)
    assert Reading((1.0, 5.0), (108, 2, 7), 0.0).lag_p99_ms(earlier) == 5.0
    assert Reading((1.0, 5.0), (10, 0, 107), 0.0).lag_p99_ms(earlier) == float("inf")


def test_a_run_writes_figures_and_a_plot(tmp_path: Path) -> None:
    """One order of work at one rate: every promised figure, all requests accounted for, no error, and a picture."""
    pytest.importorskip("matplotlib", reason="SKIPPED: the load bench draws with matplotlib; install the dev extra")
    out = tmp_path / "load.json"
    choice = ("--minutes", "1", "--capacity", "10", "--factor", "2", "--order", "mandatory first")
    bench = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", *choice, "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert bench.returncode == 0, bench.stdout + bench.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["figures"]) == {
        *("in_budget_worst", "errors", "client_fallback_worst", "loop_lag_p99_ms", "useful_2x")
    }
    assert report["figures"]["errors"] == 0
    for summary in (report["orders"]["mandatory first"]["rates"]["2"], report["orders"]["mandatory first"]["step"]):
        kinds = sum(summary[kind] for kind in ("full", "partial", "first_stage", "fallback"))
        assert kinds == pytest.approx(1.0)
        assert summary["requests"] > 10
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
