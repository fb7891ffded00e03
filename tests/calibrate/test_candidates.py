"""First stages for calibration: our own, rankings from TREC files, and judgements that can't be meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidecar.calibrate.candidates import candidates
from sidecar.calibrate.collection import Collection, CollectionError
from sidecar.calibrate.plausibility import auc
from tests.calibrate.subjects import collection


def run_file(path: Path, lines: str) -> Path:
    path.write_text(lines, encoding="utf-8")
    return path


def test_bm25_lists_are_judged_and_in_first_stage_order() -> None:
    """Best first, falling scores, all grades of the query (retrieved or not), lengths in characters, no raw scores."""
    own = collection()
    lists = candidates(own, "bm25", depth=5, progress=False)
    assert [judged.query_id for judged in lists] == list(own.queries)
    first = lists[0]
    assert first.ids[0] == "bread-history"
    assert len(first.ids) == 5
    assert set(first.signals) == {"bm25"}
    assert (np.diff(first.signals["bm25"]) <= 0).all()
    assert first.lengths == tuple(len(own.texts[document]) for document in first.ids)
    assert first.grades == own.qrels["q-bread-history"]
    assert first.raw == {}


def test_hybrid_lists_carry_both_signals(tmp_path: Path) -> None:
    """Cosines for every candidate; the vectors are kept for the next time."""
    lists = candidates(collection().sample(3), "hybrid", depth=20, cache_dir=tmp_path, progress=False)
    assert {name for judged in lists for name in judged.signals} == {"bm25", "dense"}
    assert all(np.isfinite(judged.signals["dense"]).all() for judged in lists)
    assert len(list(tmp_path.glob("dense-*.npz"))) == 1


def test_ignored_pairs_leave_every_ranking_and_leave_no_gap() -> None:
    """The list is as deep as without them, and holds none."""
    lists = candidates(collection(ignored={"q-bread-history": {"bread-history"}}), "bm25", depth=4, progress=False)
    assert "bread-history" not in lists[0].ids
    assert len(lists[0].ids) == 4
    assert "bread-history" not in lists[0].grades
    assert lists[1].ids[0] == "bread-repair"


RUN = """\
q-bread-history Q0 timer-price 2 1.5 mine
q-bread-history Q0 bread-history 1 7.25 mine
q-bread-price Q0 bread-price 1 3 mine
"""


def test_trec_runs_give_order_and_signals(tmp_path: Path) -> None:
    """The first file's ranks are the order; each file's scores are a signal; what a file lacks is NaN."""
    engine = run_file(tmp_path / "engine.trec", RUN)
    dense = run_file(tmp_path / "dense.trec", "q-bread-history Q0 timer-price 1 0.9 other\n")
    own = collection()
    said: list[str] = []
    lists = candidates(own, {"engine": engine, "dense": dense}, progress=False, note=said.append)
    first = lists[0]
    assert first.ids == ("bread-history", "timer-price")
    np.testing.assert_array_equal(first.signals["engine"], [7.25, 1.5])
    np.testing.assert_array_equal(first.signals["dense"], [np.nan, 0.9])
    assert lists[1].ids == ()
    assert lists[1].signals["engine"].shape == (0,)
    text = "\n".join(said)
    assert "engine.trec has no ranking for 58 of 60 queries" in text
    assert "finds nothing for 58 of 60 queries" in text


def test_a_run_that_does_not_fit_well_is_warned_about(tmp_path: Path) -> None:
    """Unknown documents are left out and counted; scores that rise with the rank are said, the rank is the order."""
    lines = RUN + "q-bread-price Q0 nobody 2 9 mine\n"
    said: list[str] = []
    lists = candidates(collection(), {"engine": run_file(tmp_path / "r", lines)}, progress=False, note=said.append)
    assert lists[2].ids == ("bread-price",)
    assert any("1 of 4 ranked documents are not in subjects" in words for words in said)
    assert any("in 1 of 2 rankings the scores do not fall with the rank" in words for words in said)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "holds no ranking"),
        ("q-bread-price bread-price 3\n", "line 1: has 3 columns; write 6, separated by blanks"),
        ("q-bread-price Q0 bread-price first 3 mine\n", "line 1: rank 'first' and score '3'"),
        ("q-bread-price Q0 bread-price 1 nan mine\n", "line 1: score nan is not finite"),
        (RUN + RUN.splitlines()[2] + "\n", "line 4: query 'q-bread-price' already has document 'bread-price'"),
        ("7 Q0 bread-price 1 3 mine\n", "ranks none of the queries of subjects"),
        ("q-bread-price Q0 d1 1 3 mine\nq-bread-price Q0 d2 2 2 mine\n", "2 of 2 ranked documents are not in"),
    ],
)
def test_a_run_that_cannot_be_used_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    """The message names file, line and fix."""
    with pytest.raises(CollectionError, match=words):
        candidates(collection(), {"engine": run_file(tmp_path / "r", lines)}, progress=False)


def test_a_signal_can_not_have_the_name_of_the_rank(tmp_path: Path) -> None:
    """`rank` is a pseudo-signal of profiles, `+` joins names there; without any file there is no first stage."""
    for name in ("rank", "a+b", ""):
        with pytest.raises(CollectionError, match="can't be named"):
            candidates(collection(), {name: run_file(tmp_path / "r", RUN)}, progress=False)
    with pytest.raises(CollectionError, match="no run files"):
        candidates(collection(), {}, progress=False)


def warnings(judged: Collection) -> list[str]:
    said: list[str] = []
    candidates(judged, "bm25", progress=False, note=said.append)
    return said


def test_plausible_judgements_are_not_warned_about() -> None:
    """The collection as it was made."""
    assert warnings(collection()) == []


def test_shifted_query_ids_are_warned_about() -> None:
    """Every query has the judgements of the one after the next subject: well formed, and wrong."""
    own = collection()
    ids = list(own.queries)
    moved = {query: own.qrels[ids[(number + 10) % len(ids)]] for number, query in enumerate(ids)}
    (warning,) = warnings(replace(own, qrels=moved))
    assert "may belong to other queries" in warning


def test_reversed_grades_are_warned_about() -> None:
    """The exact document has the lowest grade, the others of its subject the highest."""
    own = collection()
    turned = {query: {d: 3 - grade for d, grade in grades.items()} for query, grades in own.qrels.items()}
    (warning,) = warnings(replace(own, qrels=turned))
    assert "grades may be reversed" in warning


def test_area_under_the_curve_by_hand() -> None:
    """Pairs in the right order: 3 > 1, 3 > 2, 2 > 1 count 1, the tie of 2 and 2 one half: 3.5 of 4."""
    assert auc(np.array([3, 2], np.float32), np.array([2, 1], np.float32)) == pytest.approx(3.5 / 4)
