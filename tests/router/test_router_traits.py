"""What the router reads out of a request."""

from __future__ import annotations

import math

import pytest

from router.traits import extract


def test_signals_are_the_names_that_half_of_the_candidates_carry() -> None:
    """Two of four candidates are enough for a signal to count, one is not; NaN is not carried; names are sorted."""
    signals = [{"dense": 0.4, "bm25": 9.0}, {"bm25": 7.0}, {"dense": 0.2, "recency": 1.0}, {"age": math.nan}]
    assert extract("q", [10, 20, 30, 40], signals).signals == ("bm25", "dense")


def test_margin_is_the_largest_lead_in_standard_deviations() -> None:
    """bm25 (3, 1, 1, 1): std = sqrt(0.75), lead 2; dense has candidate 0 behind by 2 / sqrt(0.75)."""
    bm25 = [{"bm25": value} for value in (3.0, 1.0, 1.0, 1.0)]
    dense = [{"dense": value} for value in (0.1, 0.3, 0.1, 0.1)]
    both = [{**left, **right} for left, right in zip(bm25, dense, strict=True)]
    assert extract("q", [1] * 4, both).margin == pytest.approx(2.0 / math.sqrt(0.75))
    assert extract("q", [1] * 4, dense).margin == pytest.approx(-2.0 / math.sqrt(0.75))


def test_counts_words_documents_and_mean_length() -> None:
    """Words are split at white space; the mean length is per candidate; no candidates give zeros."""
    traits = extract("  reset   the router ", [100, 200], [{}, {}])
    assert (traits.query_words, traits.documents, traits.mean_characters) == (3, 2, 150.0)
    empty = extract("q", [], [])
    assert (empty.documents, empty.mean_characters, empty.signals, empty.margin) == (0, 0.0, (), 0.0)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("How do I reset it", True), ("what's new", True), ("reset?", True), ("重置？", True), ("howto reset", False)],
)
def test_question(query: str, expected: bool) -> None:
    """A question ends with a question mark or opens with a whole question word."""
    assert extract(query, [], []).question is expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("error 0x80070057", True),
        ("os.path join", True),
        ("getUserName null", True),
        ("max_retries", True),
        ("edit /etc/hosts", True),
        ("tar --strip", True),
        ("cats and/or dogs, e.g. small ones", False),
        ("well-known authors", False),
    ],
)
def test_identifiers(query: str, expected: bool) -> None:
    """Numbers, paths, options and names from code count; slashes and hyphens of prose do not."""
    assert extract(query, [], []).identifiers is expected


def test_refuses_lists_of_different_length() -> None:
    """A candidate without its signals is a caller's bug, named as such."""
    with pytest.raises(ValueError, match="2 lengths and 1 signals"):
        extract("q", [1, 2], [{}])
