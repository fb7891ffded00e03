"""``millirank calibrate --from-shadow``: from a shadow's file to a profile that a sidecar takes."""

from __future__ import annotations

import json
from pathlib import Path

from router.arms import Strategy
from router.traits import Traits
from sidecar import profiles
from sidecar.rerankers.base import Identity
from sidecar.shadow import Evaluation
from sidecar.shadow_log import ShadowLog
from tests.e2e.sidecar_process import millirank
from tests.helpers import arm_data, profile_data

QUERIES = 40
FAST = Identity("fast", Strategy.LATE_INTERACTION, "f1")
TEACHER = Identity("teacher", Strategy.CROSS_ENCODER, "t1")


def records(path: Path) -> None:
    """``fast`` agrees with the teacher about the best of twelve candidates, which the first stage has at rank ten."""
    log = ShadowLog(path, 10_000_000)
    scores = (0.0,) * 9 + (1.0, 0.0, 0.0)
    order = (9, *range(9), 10, 11)
    for number in range(QUERIES):
        log.record(
            Evaluation(
                id=f"d-{number}",
                corpus="legal",
                traits=Traits(3, False, False, 12, 100.0, ("bm25",), 0.0),
                strategy="late_interaction",
                answer=FAST,
                reference=TEACHER,
                answered=order,
                preferred=order,
                rbo=1.0,
                ndcg=1.0,
                first_stage_ndcg=0.289,  # 1 / log2(11)
                lengths=(100,) * 12,
                signals={"bm25": tuple(float(12 - rank) for rank in range(12))},
                answer_scores=scores,
                reference_scores=scores,
            )
        )
    log.close()


def earlier(path: Path) -> None:
    arms = {"fast": arm_data("late_interaction", gain=0.01), "teacher": arm_data(gain=0.06)}
    path.write_text(json.dumps(profile_data("legal", **arms)))


def test_profile_is_corrected_and_shown(tmp_path: Path) -> None:
    """``fast`` goes the whole way to the teacher, and gets its 0.06 where it was thought to be worth 0.01; the table
    says so, and the file is a profile of that corpus."""
    records(tmp_path / "shadow.jsonl")
    earlier(tmp_path / "profile.json")
    out = tmp_path / "out"
    done = millirank(
        "calibrate", "--from-shadow", str(tmp_path / "shadow.jsonl"), "--profile", str(tmp_path / "profile.json"),
        "--corpus", "legal", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "+0.010" in words
    assert "+0.060" in words
    assert "100 %" in words
    assert f"{QUERIES} evaluations by teacher t1; 0 left out" in words
    made = profiles.read(out / "profile.json")
    assert made.corpus == "legal"
    assert [point.gain for point in made.arms["fast"].gains["bm25"].points] == [0.06]
    assert made.arms["teacher"] == profiles.read(tmp_path / "profile.json").arms["teacher"]


def test_what_cannot_be_learnt_from(tmp_path: Path) -> None:
    """Exit code 2, one line, no file: another corpus, no file of a shadow, a reference that nobody has measured, a
    collection besides."""
    records(tmp_path / "shadow.jsonl")
    out = tmp_path / "out"
    common = ("--from-shadow", str(tmp_path / "shadow.jsonl"), "--out", str(out))
    for arguments, message in (
        (common, "no shadow evaluation of corpus ''"),
        ((*common, "--corpus", "legal"), "the profile has no gain of 'teacher'"),  # the built-in one
        (("--from-shadow", str(tmp_path / "absent")), "absent can't be read"),
        ((*common, "--profile", str(tmp_path / "no.json")), "no.json does not exist"),
        (("built-in", *common), "takes the place of a collection"),
    ):
        done = millirank("calibrate", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
