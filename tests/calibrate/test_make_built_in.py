"""The command that makes what calibration ships with, on made-up lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judged_cases import judged_lists

from router.arms import Strategy
from router.profile import parse
from sidecar.calibrate import pooled
from sidecar.calibrate.collection import Collection, CollectionError, Document
from sidecar.calibrate.fit import KS
from sidecar.calibrate.make.built_in import OFF, OPTIMISM, WEIGHTS, profile
from sidecar.calibrate.make.measure import Measured, carried, folders
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.surface import RERANK, first_stage_ndcg, surface

LATENCY = {arm: {"base_ms": 1.0, "ms_per_token": 0.1, "spread": 1.4} for arm in WEIGHTS}
SKILL = {"bm25": 1.0, "dense": 1.5, "minilm-l6": 2.0, "tiny-cross-encoder": 0.5}


def measured(seed: int) -> Measured:
    """A hybrid first stage, and a BM25 one that carries no dense signal."""
    hybrid = judged_lists(20, skill=SKILL, seed=seed)
    bm25 = [replace(one, signals={"bm25": one.signals["bm25"]}) for one in hybrid]
    collection = Collection("made-up", (Document("d", "text"),), {"q": "words"}, {}, "made up", {})
    strategies = {"minilm-l6": Strategy.LATE_INTERACTION, "tiny-cross-encoder": Strategy.CROSS_ENCODER}
    return Measured(collection, {"bm25": tuple(bm25), "hybrid": tuple(hybrid)}, strategies)


def gain_at_50(lists: tuple[JudgedList, ...]) -> float:
    row = np.array([[1.0, 0.5]])
    return float((surface(lists, [RERANK, "bm25"], "minilm-l6", row, [50])[:, 0, 0] - first_stage_ndcg(lists)).mean())


def test_a_gain_is_most_of_the_mean_over_collections_and_its_error_that_of_the_mean() -> None:
    """Two collections: the standard error of their mean is half of their difference."""
    both = [measured(1), measured(2)]
    one, other = (gain_at_50(each.lists["bm25"]) for each in both)
    made = parse(profile(both, LATENCY, 0.02), revision="")
    points = {point.k: point for point in made.arms["minilm-l6"].gains["bm25"].points}
    assert points[50].gain == pytest.approx(OPTIMISM * (one + other) / 2, abs=1e-4)
    assert points[50].gain - points[50].lower == pytest.approx(OPTIMISM * abs(one - other) / 2, abs=2e-4)


def test_every_arm_has_weights_and_gains_for_what_may_come_along() -> None:
    """But for what could not be measured, which has weights only."""
    made = parse(profile([measured(1), measured(2)], LATENCY, 0.02), revision="")
    assert set(made.arms) == set(WEIGHTS)
    for name, arm in made.arms.items():
        assert set(arm.weights) == set(WEIGHTS[name])
        assert set(arm.weights) - set(arm.gains) == {signals for own, signals in OFF if own == name}


def test_one_collection_is_refused() -> None:
    """It says nothing about how much they differ."""
    with pytest.raises(ValueError, match="1 collections say nothing"):
        profile([measured(1)], LATENCY, 0.02)


def test_the_signals_of_candidates_are_the_key_of_a_profile() -> None:
    """Sorted, joined by +."""
    one = measured(1)
    assert (carried(one.lists["bm25"]), carried(one.lists["hybrid"])) == ("bm25", "bm25+dense")


def test_a_folder_without_collections_is_refused(tmp_path: Path) -> None:
    """The message says what is looked for."""
    with pytest.raises(CollectionError, match=r"no sub-folder with a corpus\.jsonl"):
        folders(tmp_path)


def test_what_ships_is_of_at_least_three_collections_for_every_built_in_arm() -> None:
    """Fewer would be no prior; each has another digest of its documents."""
    shipped = pooled.read()
    assert len({one.documents_digest for one in shipped.collections}) == len(shipped.collections) >= 3
    for carried_by, arm, used in (("bm25", "minilm-l6", "bm25"), ("bm25+dense", "signals", "bm25+dense")):
        assert all(shipped.prior(carried_by, arm, used, k) is not None for k in KS)
