"""nDCG@10 under many weightings: worked by hand, and against ir-measures and the router's own fusion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.fusion import fuse, order
from router.profile import FusionWeights
from sidecar.calibrate.metrics import ndcg_at_10
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.surface import RERANK, first_stage_ndcg, simplex, surface


def judged(raw: list[float], bm25: list[float], grades: list[int], missing: int = 0) -> JudgedList:
    """Candidate i has id "i" and grade ``grades[i]``; ``missing`` relevant documents are no candidates."""
    ids = tuple(map(str, range(len(raw))))
    known = {name: grade for name, grade in zip(ids, grades, strict=True) if grade}
    return JudgedList(
        query_id="q",
        query="words",
        ids=ids,
        lengths=(10,) * len(raw),
        signals={"bm25": np.array(bm25)},
        raw={"m": np.array(raw)},
        grades=known | {f"lost{i}": 1 for i in range(missing)},
    )


def test_the_simplex_of_two_columns_and_four_steps() -> None:
    """Five ways to share out four quarters."""
    assert simplex(2, 4).tolist() == [[0, 1], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1, 0]]
    assert len(simplex(3, 8)) == 45


def test_first_stage_ndcg_by_hand() -> None:
    """Grades 0, 2, 1 as they stand: (2 / log2 3 + 1 / log2 4) / (2 / log2 2 + 1 / log2 3)."""
    (value,) = first_stage_ndcg([judged([0, 0, 0], [3, 2, 1], [0, 2, 1])])
    assert value == pytest.approx((2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3)))


def test_reordering_the_first_two_of_three() -> None:
    """The model alone swaps candidates 0 and 1; bm25 alone leaves them; candidate 2 is not among the first two."""
    found = surface([judged([0, 1, 9], [3, 2, 1], [0, 1, 1])], [RERANK, "bm25"], "m", np.eye(2), [2])
    ideal = 1 + 1 / math.log2(3)
    assert found.tolist() == [[[pytest.approx((1 + 1 / 2) / ideal), pytest.approx((1 / math.log2(3) + 1 / 2) / ideal)]]]


def test_candidates_without_a_score_follow_in_first_stage_order() -> None:
    """Of four candidates the first was not scored: 2 beats 1 by its score, then 0 and 3 as they stood."""
    one = judged([math.nan, 0.0, 1.0, math.nan], [4, 3, 2, 1], [1, 0, 1, 0])
    found = surface([one], [RERANK], "m", np.ones((1, 1)), [3])
    assert found.item() == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))


def test_relevant_documents_that_are_no_candidates_lower_the_ideal() -> None:
    """One of two relevant documents was found, and stands first."""
    (value,) = first_stage_ndcg([judged([0], [1], [1], missing=1)])
    assert value == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_query_without_candidates_counts_as_nothing() -> None:
    """Nothing found is nDCG 0, whatever the weights."""
    nothing = judged([], [], [], missing=1)
    assert first_stage_ndcg([nothing]).tolist() == [0.0]
    assert surface([nothing], [RERANK, "bm25"], "m", simplex(2, 1), [10]).tolist() == [[[0.0, 0.0]]]


SCORES = st.one_of(st.integers(-3, 3).map(float), st.just(math.nan))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES, st.integers(0, 2)), min_size=1, max_size=25), st.sampled_from([3, 10, 25]))
def test_it_is_what_the_router_and_ir_measures_say(drawn: list[tuple[float, float, int]], k: int) -> None:
    """Fused by `router.fusion` and measured by ir-measures: the same value, ties and gaps in signals included."""
    one = judged([row[0] for row in drawn], [row[1] for row in drawn], [row[2] for row in drawn], missing=1)
    scored = [place for place in range(min(k, len(drawn))) if math.isfinite(drawn[place][0])]
    signals = [{"bm25": drawn[place][1]} for place in scored]
    fused = fuse(
        [drawn[place][0] for place in scored], signals, scored, FusionWeights(0.5, {"bm25": 0.25, "rank": 0.25})
    )
    run = {"q": [one.ids[place] for place in order(fused, scored, len(drawn))]}
    ours = surface([one], [RERANK, "bm25", "rank"], "m", np.array([[0.5, 0.25, 0.25]]), [k]).item()
    # Rounding may order sums apart that are equal by hand; then both orders are right, and only one is measured here.
    if len({round(value, 9) for value in fused}) == len(fused):
        assert ours == pytest.approx(ndcg_at_10({"q": dict(one.grades)}, run)["q"], abs=1e-9)
