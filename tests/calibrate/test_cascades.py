"""What a cascade makes of k candidates, worked out from its stages' scores by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sidecar.calibrate.cascades import derivable, scores_at
from sidecar.calibrate.records import JudgedList, Stages
from sidecar.calibrate.report.orders import reorder, with_profile
from sidecar.calibrate.surface import surface
from sidecar.calibrate.sweep_sidecar import forgetful
from sidecar.commands.calibrate_run import service
from sidecar.reranker_settings import CascadeSettings, LlmSettings, OnnxCrossEncoder, OnnxLateInteraction
from sidecar.settings import Settings
from tests.helpers import arm_data, profile


def judged(first: Sequence[float], second: Sequence[float], second_k: int = 2) -> JudgedList:
    count = len(first)
    raw = {"wide": np.array(first, np.float64), "deep": np.array(second, np.float64)}
    stages = {"both": Stages("wide", "deep", second_k)}
    return JudgedList(
        query_id="q",
        query="a query",
        ids=tuple("abcdefgh"[:count]),
        lengths=(100,) * count,
        signals={},
        raw={**raw, "both": np.zeros(count)},
        grades={"a": 1},
        cascades=stages,
    )


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        # The two best, a and b, share the interval from 2, the best of the rest, to 4: the second stage prefers b.
        (4, [3.0, 4.0, 2.0, 1.0]),
        (3, [3.0, 4.0, 2.0]),
        # There is no rest: from 3, the worst of the two, to 4.
        (2, [3.5, 4.0]),
        # Alone: an interval as wide as the score itself above it.
        (1, [8.0]),
    ],
)
def test_scores_by_hand(k: int, expected: list[float]) -> None:
    """First stage 4, 3, 2, 1; the second one sees the best two of the k that there are, and prefers the later ones."""
    one = judged([4.0, 3.0, 2.0, 1.0], [10.0, 20.0, 30.0, 40.0])
    assert scores_at(one, "both", k).tolist() == pytest.approx(expected)


def test_who_is_seen_twice_depends_on_k() -> None:
    """First stage 1, 2, 3, 4: of two candidates the second stage sees a and b, of four it sees c and d."""
    one = judged([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0])
    assert np.argsort(-scores_at(one, "both", 2)).tolist() == [0, 1]
    assert np.argsort(-scores_at(one, "both", 4)).tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("broken", ["first", "second"])
def test_a_stage_that_leaves_somebody_out_ends_it(broken: str) -> None:
    """The answer is the first stage's, as far as that goes."""
    first, second = [4.0, 3.0, 2.0], [1.0, 2.0, 3.0]
    (first if broken == "first" else second)[1] = np.nan
    np.testing.assert_array_equal(scores_at(judged(first, second), "both", 3), first)


def test_fit_and_report_look_at_each_k() -> None:
    """With the model's score alone as weight: of two candidates b comes first, of four d. The surface says it, too."""
    one = judged([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0])
    arm = {
        **arm_data("cascade"),
        "weights": {"": {"rerank": 1.0, "signals": {}}, "bm25": {"rerank": 1.0, "signals": {}}},
    }
    query = with_profile(one, profile(both=arm))
    assert reorder(query, "both", 2) == ["b", "a", "c", "d"]
    assert reorder(query, "both", 4) == ["d", "c", "b", "a"]
    found = surface([one], ["rerank"], "both", np.ones((1, 1)), [2, 4])
    # The relevant one, a, is second of two and last of four.
    assert found[0, :, 0] == pytest.approx([1 / np.log2(3), 1 / np.log2(5)])


def configured(**rerankers: object) -> Settings:
    models = {
        "wide": OnnxLateInteraction(model="embedded:minilm-l6"),
        "deep": OnnxCrossEncoder(model="embedded:tiny-cross-encoder"),
    }
    return Settings(rerankers={**models, **rerankers})  # type: ignore[arg-type]


def test_which_cascades_follow_from_their_stages() -> None:
    """Both stages have to be measured, and none may be an LLM that ranks listwise."""
    llms = {name: LlmSettings(base_url="http://a/v1", model="m", prompting=name) for name in ("listwise", "pointwise")}
    settings = configured(
        **llms,
        both=CascadeSettings(first="wide", second="deep", second_k=8),
        graded=CascadeSettings(first="wide", second="pointwise"),
        ranked=CascadeSettings(first="wide", second="listwise"),
    )
    names = ["wide", "deep", "listwise", "pointwise", "both", "graded", "ranked"]
    assert set(derivable(settings, names)) == {"both", "graded"}
    assert derivable(settings, names)["both"] == Stages("wide", "deep", 8)
    assert derivable(settings, ["wide", "both"]) == {}


def test_a_cascade_is_cold_where_a_stage_is() -> None:
    """A sidecar that keeps no vectors has the cascade over late interaction, and with it the other stage."""
    other = OnnxCrossEncoder(model="embedded:tiny-cross-encoder")
    cold = forgetful(configured(other=other, both=CascadeSettings(first="wide", second="deep"))).rerankers
    assert {name for name, own in cold.items() if own.enabled} == {"wide", "deep", "both"}
    assert cold["wide"].vector_bytes == 0  # type: ignore[union-attr]
    assert {name for name, own in forgetful(configured(other=other)).rerankers.items() if own.enabled} == {"wide"}


def test_a_cascade_lifts_no_further_than_its_stages_may() -> None:
    """Of two promotion caps the stricter one holds; the report orders by it, as the sidecar does."""
    grader = LlmSettings(base_url="http://a/v1", model="m", promotion_cap=7)
    settings = configured(grader=grader, both=CascadeSettings(first="wide", second="grader"))
    assert service(settings).promotion_caps == {"grader": 7, "both": 7}
