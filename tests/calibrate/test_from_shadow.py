"""Shadow evaluations as judged lists: the reference's opinion for labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.arms import Strategy
from router.traits import Traits, extract
from sidecar.calibrate.from_shadow import ShadowError, judged_lists, stand_in
from sidecar.rerankers.base import Identity
from sidecar.shadow import Evaluation
from sidecar.shadow_log import ShadowLog


def evaluation(**changes: Any) -> Evaluation:
    """The answer of ``fast``, judged by ``teacher`` over three candidates."""
    fields: dict[str, Any] = {
        "id": "d-1",
        "corpus": "legal",
        "traits": Traits(3, True, False, 5, 100.0, ("bm25",), 0.5),
        "strategy": "late_interaction",
        "answer": Identity("fast", Strategy.LATE_INTERACTION, "f1"),
        "reference": Identity("teacher", Strategy.LLM, "t1"),
        "answered": (1, 0, 2),
        "preferred": (1, 2, 0),
        "rbo": 0.9,
        "ndcg": 0.95,
        "first_stage_ndcg": 0.9,
        "lengths": (10, 20, 30),
        "signals": {"bm25": (3.5, None, 1.25)},
        "answer_scores": (0.1, 0.7, None),
        "reference_scores": (-3.0, 5.0, 0.92),
    }
    return Evaluation(**{**fields, **changes})


def written(folder: Path, *evaluations: Evaluation) -> Path:
    path = folder / "shadow.jsonl"
    log = ShadowLog(path, 1_000_000)
    for each in evaluations:
        log.record(each)
    log.close()
    return path


def test_evaluation_becomes_a_judged_list(tmp_path: Path) -> None:
    """Of one evaluation the reference's best candidate gets 3, the next one 2, and its lowest score always 0."""
    found = judged_lists([written(tmp_path, evaluation())], "legal")
    assert (found.reference, found.left_out) == (("teacher", "t1"), 0)
    (judged,) = found.lists
    assert (judged.query_id, judged.ids, judged.lengths) == ("d-1", ("0", "1", "2"), (10, 20, 30))
    assert judged.grades == {"0": 0, "1": 3, "2": 2}
    np.testing.assert_array_equal(judged.signals["bm25"], [3.5, np.nan, 1.25])
    np.testing.assert_array_equal(judged.raw["teacher"], [-3.0, 5.0, 0.92])
    np.testing.assert_array_equal(judged.raw["fast"], [0.1, 0.7, np.nan])


def test_answers_without_a_model(tmp_path: Path) -> None:
    """First-stage order and SIGNALS have no scores of their own; an answer by the reference itself has them once."""
    reference = evaluation().reference
    path = written(
        tmp_path,
        evaluation(answer=None, strategy="none", answer_scores=(None,) * 3),
        evaluation(answer=reference, answer_scores=(5.0, None, None)),
    )
    for judged in judged_lists([path], "legal").lists:
        assert set(judged.raw) == {"teacher"}
        np.testing.assert_array_equal(judged.raw["teacher"], [-3.0, 5.0, 0.92])


def test_only_the_corpus_and_the_newest_reference_count(tmp_path: Path) -> None:
    """Another corpus, an earlier teacher and one without an opinion are left out, and counted."""
    path = written(
        tmp_path,
        evaluation(id="earlier", reference=Identity("teacher", Strategy.LLM, "t0")),
        evaluation(id="other", corpus="medical"),
        evaluation(id="kept"),
        evaluation(id="alike", reference_scores=(1.0, 1.0, 1.0), ndcg=None),
    )
    found = judged_lists([path], "legal")
    assert ([each.query_id for each in found.lists], found.left_out) == (["kept"], 3)


@given(st.integers(1, 60), st.booleans(), st.booleans())
def test_stand_in_has_the_traits_of_the_query(words: int, question: bool, identifiers: bool) -> None:
    """What the router and the fit see of a query is all that was kept of it."""
    traits = extract(stand_in(words, question, identifiers), [], [])
    assert (traits.query_words, traits.question, traits.identifiers) == (words, question, identifiers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n", "line 1 is not JSON"),
        ("[]\n", "line 1 is not of format"),
        ('{"format": "millirank.decisions/1"}\n', "line 1 is not of format"),
        ("", "no shadow evaluation of corpus 'legal'"),
    ],
)
def test_files_that_are_no_shadow_records(tmp_path: Path, content: str, message: str) -> None:
    """The line, and what was expected in it."""
    path = tmp_path / "shadow.jsonl"
    path.write_text(content)
    with pytest.raises(ShadowError, match=message):
        judged_lists([path], "legal")


def test_unknown_corpus_and_missing_file(tmp_path: Path) -> None:
    """The corpora that there are; the file that is not."""
    with pytest.raises(ShadowError, match=r"of corpus 'medical' in .*; there: 'legal'"):
        judged_lists([written(tmp_path, evaluation())], "medical")
    with pytest.raises(ShadowError, match="absent can't be read: No such file"):
        judged_lists([tmp_path / "absent"])


def test_half_a_last_line_is_left_out(tmp_path: Path) -> None:
    """It is being written."""
    path = written(tmp_path, evaluation(), evaluation(id="d-2"))
    path.write_text(path.read_text()[:-5])
    assert [each.query_id for each in judged_lists([path], "legal").lists] == ["d-1"]
    assert json.loads(path.read_text().splitlines()[0])["id"] == "d-1"
