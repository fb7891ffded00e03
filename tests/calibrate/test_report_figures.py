"""Latency, curves and context of the read-out, with numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.report.context import context
from sidecar.calibrate.report.curves import knee
from sidecar.calibrate.report.latency import added_latency, usd_per_1k
from sidecar.calibrate.report.recommend import Load, loads, max_documents


def sample(reranker: str, elapsed_ms: float, *, k: int = 10, warm: bool = True, **other: int) -> LatencySample:
    """One request; what is not given is 0."""
    figures = {"tokens": 0, "pairs": 0, "micro_usd": 0} | other
    return LatencySample(reranker, k, warm, elapsed_ms, 0.0, **figures)


def test_added_latency_is_over_the_median_without_reranking() -> None:
    """none takes 1, 2 and 9 ms (median 2); an arm of 12, 22 and 32 ms adds 10, 20 and 30, and 30 pairs in 60 ms are 500
    a second."""
    samples = [sample("none", ms) for ms in (1.0, 2.0, 9.0)]
    samples += [sample("late", ms, pairs=10) for ms in (12.0, 22.0, 32.0)]
    added = added_latency(samples)["late", 10, True]
    assert (added.p50_ms, added.requests) == (20.0, 3)
    assert added.p95_ms == pytest.approx(29.0)  # between the 2nd and 3rd: 20 + 0.9 * 10
    assert added.p99_ms == pytest.approx(29.8)
    assert added.pairs_per_s == pytest.approx(500.0)
    assert (added.p50_low_ms, added.p50_high_ms) == (10.0, 30.0)


def test_warm_and_cold_are_kept_apart() -> None:
    """New documents are another figure than known ones."""
    added = added_latency([sample("none", 1.0), sample("late", 5.0), sample("late", 101.0, warm=False)])
    assert added["late", 10, True].p50_ms == 4.0
    assert added["late", 10, False].p50_ms == 100.0


def test_latency_needs_something_to_compare_with() -> None:
    """Without requests that rerank nothing there is no added latency."""
    with pytest.raises(ValueError, match="without reranking"):
        added_latency([sample("late", 5.0)])


def test_price_of_a_thousand_requests() -> None:
    """Requests of 400 and 600 micro-USD cost 0.50 USD per 1,000 on average."""
    prices = usd_per_1k([sample("llm", 1.0, micro_usd=400), sample("llm", 1.0, micro_usd=600)])
    assert prices == {("llm", 10): pytest.approx(0.5)}


def test_the_knee_is_where_the_curve_flattens() -> None:
    """Steep up to 25, flat beyond it."""
    assert knee([(1, 0.40), (10, 0.50), (25, 0.60), (50, 0.61), (100, 0.615)]) == 25


@pytest.mark.parametrize("points", [[(1, 0.4), (10, 0.3), (25, 0.2)], [(1, 0.4), (10, 0.5)], [(1, 0.4)] * 3])
def test_no_knee_where_nothing_rises_or_too_little_is_known(points: list[tuple[int, float]]) -> None:
    """A falling or flat curve has none, nor has one of two points."""
    assert knee(points) is None


def test_context_of_the_first_stage() -> None:
    """q1: 2 of its 4 relevant documents are candidates, ranks 1 and 7. q2: its only one is at rank 60, beyond the 50.

    recall@50 = (0.5 + 0) / 2; precision@5 = (1/5 + 0) / 2, at best (2/5 + 0) / 2. Perfect order of the first 10:
    q1 has gains 1 at ranks 1 and 2 of an ideal with four: (1 + 0.6309) / (1 + 0.6309 + 0.5 + 0.4307); q2 has 0. Of the
    first 60, q2 has 1.
    """
    ids = tuple(f"d{i}" for i in range(60))
    q1 = JudgedList("q1", "x", ids, (1,) * 60, {}, {}, {"d0": 1, "d6": 1, "lost1": 1, "lost2": 1})
    q2 = JudgedList("q2", "x", ids, (1,) * 60, {}, {}, {"d59": 1, "d3": 0})
    found = context([q1, q2], (10, 60))
    assert (found.recall50, found.precision5, found.best_precision5) == pytest.approx((0.25, 0.1, 0.2))
    q1_best = (1 + 0.63093) / (1 + 0.63093 + 0.5 + 0.43068)
    assert [k for k, _ in found.ceiling] == [10, 60]
    assert [value for _, value in found.ceiling] == pytest.approx([q1_best / 2, (q1_best + 1) / 2], abs=1e-4)


def test_without_any_relevant_document_nothing_can_be_said() -> None:
    """Precise, not a division by zero."""
    with pytest.raises(ValueError, match="no query has a relevant document"):
        context([JudgedList("q", "x", ("a",), (1,), {}, {}, {"a": 0})], (10,))


def test_a_load_is_the_line_through_what_was_computed() -> None:
    """120 tokens at 10 candidates and 270 at 25 are 20 + 10 a candidate; 39 tokens of 390 micro-USD cost 1 each."""
    samples = [
        sample("late", 1.0, k=10, pairs=10, tokens=120, micro_usd=120),
        sample("late", 1.0, k=25, pairs=25, tokens=270, micro_usd=270),
        sample("late", 1.0, k=25, pairs=25, tokens=9999, warm=False),
        sample("signals", 1.0),
    ]
    assert loads(samples, warm=True) == {"late": Load(20.0, 10.0, 1.0)}
    work = Load(20.0, 10.0, 1.0).work(3)
    assert (work.fixed_tokens, work.tokens, work.micro_usd_per_token) == (20, (10, 10, 10), 1.0)


def test_a_load_below_one_token_a_candidate_stays_on_its_line() -> None:
    """Whole tokens, whose sums are the rounded line."""
    work = Load(8.0, 0.25, 0.0).work(8)
    assert [work.tokens_at(k) for k in (0, 4, 8)] == [8, 9, 10]


def test_how_many_candidates_one_answer_covers_is_seen_in_the_scores() -> None:
    """A listwise model that scored 2 of 4 covers 2; one that scored all is not limited."""
    half, whole = np.array([1.0, 2.0, np.nan, np.nan]), np.ones(4)
    lists = [JudgedList("q", "x", tuple("abcd"), (1,) * 4, {}, {"llm": half, "late": whole}, {"a": 1})]
    assert max_documents(lists, "llm", 200) == 2
    assert max_documents(lists, "late", 200) is None
