"""Collections without judgements by people: known items, a teacher's opinion; and those of ir_datasets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ir_datasets
import numpy as np
import pytest

from sidecar.calibrate.collection import CollectionError
from sidecar.calibrate.known_items import load as known_items
from sidecar.calibrate.load import load_collection
from sidecar.calibrate.opinion import grades
from sidecar.calibrate.teacher import read_queries, taught
from sidecar.settings import Settings
from tests.calibrate.subjects import collection
from tests.e2e.sidecar_process import REPOSITORY

REST = "It goes on with many more words so that there is something left to be found by when the beginning is gone."


def write(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


# --- known items ---


def test_titles_and_first_sentences_become_queries(tmp_path: Path) -> None:
    """The query leaves the document that it asks for, wherever it stands in it, and only that one is relevant."""
    file = write(
        tmp_path / "docs.jsonl",
        {"id": "a", "title": "How to\u00a0 knead dough", "text": f"{REST} That was HOW to knead\n dough. Enough."},
        {"id": "b", "text": f"Bake bread in an oven! {REST}"},
        {"id": "c", "title": "Introduction", "text": REST},
        {"id": "d", "text": "Far too short to ask for."},
        {"id": 5, "title": "The same title twice", "text": REST},
        {"id": 6, "title": "the same Title twice", "text": REST},
    )
    own = load_collection(str(file))
    assert own.queries == {"known-a": "How to knead dough", "known-b": "Bake bread in an oven!"}
    assert own.qrels == {"known-a": {"a": 1}, "known-b": {"b": 1}}
    assert own.texts["a"] == f"{REST} That was . Enough."
    assert own.texts["b"] == REST
    assert own.texts["5"] == f"The same title twice. {REST}"
    assert own.name == "docs"
    assert own.labels == "known-item queries: titles and first sentences of 2 of the 6 documents"
    assert any("nobody has judged these queries" in warning for warning in own.warnings)


def test_known_items_are_drawn_by_their_seed(tmp_path: Path) -> None:
    """The same seed draws the same ones, another one others; documents that are not drawn stay whole."""
    entries = [{"id": n, "title": f"All about number {n}", "text": REST} for n in range(30)]
    file = write(tmp_path / "docs.jsonl", *entries)
    first, again, other = (known_items(file, queries=10, seed=seed) for seed in (0, 0, 1))
    assert len(first.queries) == 10
    assert first.queries == again.queries != other.queries
    whole = sum(text.startswith("All about number") for text in first.texts.values())
    assert whole == 20


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"id": "a", "text": "Short."}], "no query can be made of these documents; each needs a title"),
        ([{"id": "a"}], "line 1: 'text' is missing or no string"),
        ([{"text": REST}], "line 1: 'id' is missing or empty"),
        ([], "is empty; write one JSON object a line"),
    ],
)
def test_documents_that_no_query_can_be_made_of_are_refused(
    tmp_path: Path, entries: list[dict[str, str]], words: str
) -> None:
    """The message says what a document needs."""
    with pytest.raises(CollectionError, match=words):
        load_collection(str(write(tmp_path / "docs.jsonl", *entries)))


# --- a teacher's opinion ---


def test_grades_by_hand() -> None:
    """Two queries: the two highest scores of all get 3, the next four 2, the next six 1, the rest and the lowest 0."""
    first = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])
    second = np.array([8.5, 7.5, 6.5, 5.5, 4.5, 3.5, np.nan])
    assert grades([first, second]) == [[3, 2, 2, 1, 1, 1, 0], [3, 2, 2, 1, 1, 1, 0]]


def test_equal_scores_get_equal_grades() -> None:
    """Ties reach a grade together; where all scores are equal nothing is relevant."""
    assert grades([np.array([5.0, 5.0, 5.0, 1.0]), np.array([1.0, 1.0])]) == [[3, 3, 3, 0], [0, 0]]
    assert grades([np.array([2.0, 2.0])]) == [[0, 0]]
    assert grades([np.array([np.nan])]) == [[0]]


@pytest.fixture
def short_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets lie in the temporary folder, and a path of pytest's is too long for one."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108 - private folders are made in it


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("short_folders")
def test_a_teacher_judges_what_the_first_stage_finds(tmp_path: Path) -> None:
    """The exact documents get high grades; the labels say whose opinion they are, and the teacher is not measured on
    them."""
    own = collection().sample(5)
    names = ("minilm-l6", "tiny-cross-encoder")
    settings = Settings(rerankers={name: each for name, each in Settings().rerankers.items() if name in names})
    labelled = taught(
        "subjects",
        own.documents,
        read_queries(write(tmp_path / "q.jsonl", *({"id": q, "text": t} for q, t in own.queries.items()))),
        settings,
        "minilm-l6",
        cache_dir=tmp_path,
        first_stage="bm25",
        depth=15,
        progress=False,
    )
    assert labelled.judge == "minilm-l6"
    assert labelled.labels == "the opinion of minilm-l6, not judgements by people, on 15 candidates of each query"
    assert any("the opinion of minilm-l6" in warning for warning in labelled.warnings)
    assert all(labelled.qrels[query][query.removeprefix("q-")] >= 2 for query in labelled.queries)
    assert all(len(given) == 15 for given in labelled.qrels.values())
    with pytest.raises(CollectionError, match="no reranker is named 'gpt'; name one of minilm-l6, tiny"):
        taught("subjects", own.documents, own.queries, settings, "gpt", cache_dir=tmp_path)


# --- ir_datasets ---


def dataset(name: str, folder: Path, qrels: str | None = "q1 0 d1 2\nq1 0 d2 -2\nq2 0 d2 1\n") -> str:
    """A small dataset of one's own in the library's catalogue; gives the word for it."""
    parts = {
        "docs_tsv": "d1\tFlour, water and time.\nd2\tBake in a hot oven.\n",
        "queries_tsv": "q1\tsourdough\nq2\toven\n",
        "qrels_trec": qrels,
    }
    files = {}
    for part, content in parts.items():
        if content is not None:
            files[part] = str(folder / f"{name}.{part}")
            Path(files[part]).write_text(content, encoding="utf-8")
    ir_datasets.registry.register(name, ir_datasets.create_dataset(**files))
    return f"ir_datasets:{name}"


def test_a_dataset_of_the_catalogue_is_a_collection(tmp_path: Path) -> None:
    """Documents, queries and grades by id; negative grades count as 0, with a warning that counts them."""
    own = load_collection(dataset("kitchen", tmp_path))
    assert own.texts == {"d1": "Flour, water and time.", "d2": "Bake in a hot oven."}
    assert own.queries == {"q1": "sourdough", "q2": "oven"}
    assert own.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert any("1 judgements have a negative grade" in warning for warning in own.warnings)


def test_what_the_catalogue_can_not_give_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown id, a dataset without judgements, and no library at all."""
    with pytest.raises(CollectionError, match="ir_datasets has no 'no/such'; its catalogue is at"):
        load_collection("ir_datasets:no/such")
    with pytest.raises(CollectionError, match="unjudged has no qrels; choose a part of it that is judged"):
        load_collection(dataset("unjudged", tmp_path, qrels=None))
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(CollectionError, match=r"needs the library; install it with: pip install 'millirank-server"):
        load_collection("ir_datasets:vaswani")


def test_offline_is_said_with_what_to_do() -> None:
    """A dataset that has to be downloaded, behind a proxy that nobody listens on: what to copy, or what to make."""
    script = (
        "from sidecar.calibrate.load import load_collection; from sidecar.calibrate.collection import CollectionError\n"
        "try: load_collection('ir_datasets:vaswani')\n"
        "except CollectionError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as home:
        nobody = "http://127.0.0.1:9"
        variables = {"IR_DATASETS_HOME": home, "HTTPS_PROXY": nobody, "HTTP_PROXY": nobody}
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **variables},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout
    assert "vaswani can't be read: " in told
    assert "where there is no network, copy the folder" in told
