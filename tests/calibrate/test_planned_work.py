"""What requests were estimated to compute, read back from a real record of decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.arms import Strategy
from router.policy import Routing
from sidecar import profiles
from sidecar.calibrate.planned_work import planned_tokens
from sidecar.decision_log import DecisionLog
from sidecar.replay import ReplayError
from tests.helpers import ScriptedReranker, arm_data, profile_data, request, rig


def test_tokens_are_those_of_the_reranker_at_its_k(tmp_path: Path) -> None:
    """Two decisions on the same three candidates, of which a reranker has 3 tokens each and the other one 31: two of
    them are 62 tokens for the one, three are 9 for the other. What is not asked for or not on record is left out."""
    arms = {"wide": arm_data("late_interaction"), "deep": arm_data("cross_encoder")}
    (tmp_path / "default.json").write_text(json.dumps(profile_data(**arms)))
    loaded = profiles.load([str(tmp_path / "default.json")])
    log = DecisionLog(tmp_path / "decisions.jsonl", 1 << 20, lambda: loaded)
    rerankers = (
        ScriptedReranker("wide", Strategy.LATE_INTERACTION, tokens_per_document=3),
        ScriptedReranker("deep", tokens_per_document=31),
    )
    parts = rig(*rerankers, profiles=loaded.all(), decision_log=log)
    deep, wide, _ = (
        parts.pipeline.explain(request("q", "a", "b", "c", routing=Routing(reranker=name)), None, 0.0).decision_id
        for name in ("deep", "wide", "deep")
    )
    log.close()
    asked = {deep: ("deep", 2), wide: ("wide", 3), "never made": ("deep", 2)}
    assert planned_tokens([tmp_path / "decisions.jsonl"], asked) == {deep: 62, wide: 9}


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    """Rather than measured as if nothing had been computed."""
    file = tmp_path / "decisions.jsonl"
    file.write_text("[]\n")
    with pytest.raises(ReplayError, match=r"decisions\.jsonl, line 1 is no JSON object"):
        planned_tokens([file], {})
