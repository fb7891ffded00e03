"""BEIR folders: what is read, what is left out with a warning, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.calibrate.collection import Collection, CollectionError
from sidecar.calibrate.load import load_collection

DOCUMENTS = [
    {"_id": "d1", "title": "Sourdough", "text": "Flour, water and time."},
    {"_id": "d2", "title": "", "text": "Knead the dough for ten minutes."},
    {"_id": "d3", "text": "Bake in a hot oven."},
    {"_id": 4, "title": "Only a title", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "how long to knead"}, {"_id": "q2", "text": "oven temperature"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td1\t0\nq2\td3\t1\n"


def folder(
    path: Path,
    *,
    documents: list[dict[str, object]] | str = DOCUMENTS,  # type: ignore[assignment]
    queries: list[dict[str, object]] | str = QUERIES,  # type: ignore[assignment]
    qrels: Mapping[str, str] | None = None,
    ignore: str = "",
) -> str:
    """A BEIR folder; texts are written as they stand, lists as JSON lines."""
    for name, content in (("corpus", documents), ("queries", queries)):
        text = content if isinstance(content, str) else "\n".join(json.dumps(entry) for entry in content)
        (path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (path / "qrels").mkdir()
    for name, text in (qrels if qrels is not None else {"test": QRELS}).items():
        (path / "qrels" / f"{name}.tsv").write_text(text, encoding="utf-8")
    if ignore:
        (path / "ignore.tsv").write_text(ignore, encoding="utf-8")
    return str(path)


def loaded(path: Path, **parts: object) -> Collection:
    return load_collection(folder(path, **parts))  # type: ignore[arg-type]


def test_a_folder_gives_documents_queries_and_grades(tmp_path: Path) -> None:
    """Titles stand before texts; whole numbers are ids too; grade 0 is kept as judged."""
    collection = loaded(tmp_path)
    assert collection.texts == {
        "d1": "Sourdough. Flour, water and time.",
        "d2": "Knead the dough for ten minutes.",
        "d3": "Bake in a hot oven.",
        "4": "Only a title",
    }
    assert collection.queries == {"q1": "how long to knead", "q2": "oven temperature"}
    assert collection.qrels == {"q1": {"d2": 2, "d1": 0}, "q2": {"d3": 1}}
    assert collection.name == tmp_path.name
    assert collection.warnings == ("only 2 queries: intervals mean little below 20",)


def test_judgements_need_no_header(tmp_path: Path) -> None:
    """The first line is a header only where its third column is no number."""
    assert loaded(tmp_path, qrels={"test": "q1\td2\t1\n"}).qrels == {"q1": {"d2": 1}}


@pytest.mark.parametrize(
    ("there", "asked", "judged"),
    [
        (("train", "dev", "test"), "", "test"),
        (("train", "dev"), "", "dev"),
        (("train",), "", "train"),
        (("train", "test"), "train", "train"),
    ],
)
def test_the_split_is_test_then_dev_then_train_or_the_one_asked_for(
    tmp_path: Path, there: tuple[str, ...], asked: str, judged: str
) -> None:
    """Queries that the split does not judge are left out without a warning: they belong to another one."""
    queries = [{"_id": split, "text": f"about {split}"} for split in there]
    where = folder(tmp_path, queries=queries, qrels={split: f"{split}\td1\t1\n" for split in there})
    collection = load_collection(where, split=asked)
    assert list(collection.queries) == [judged]
    assert collection.warnings == ("only 1 query: intervals mean little below 20",)
    assert judged in collection.labels


def test_ignored_pairs_leave_the_judgements(tmp_path: Path) -> None:
    """`ignore.tsv` takes its pairs out of the grades; pairs of unknown ids are counted."""
    collection = loaded(tmp_path, ignore="query-id\tcorpus-id\nq1\td1\nq1\tnobody\n")
    assert collection.qrels["q1"] == {"d2": 2}
    assert collection.ignored == {"q1": frozenset({"d1", "nobody"})}
    assert any("1 of the 2 pairs in" in warning for warning in collection.warnings)


def test_what_does_not_fit_is_left_out_and_counted(tmp_path: Path) -> None:
    """Documents without text, unknown ids in judgements (less than half), queries that nothing is relevant for."""
    collection = loaded(
        tmp_path,
        documents=[*DOCUMENTS, {"_id": "blank", "title": " ", "text": ""}],
        qrels={"test": "q1\td2\t1\nq1\tblank\t1\nq2\td3\t0\n"},
    )
    assert "blank" not in collection.texts
    assert collection.qrels == {"q1": {"d2": 1}}
    said = "\n".join(collection.warnings)
    assert "1 of the 3 document ids in" in said
    assert "('blank')" in said
    assert "1 of 2 queries have no text or no relevant document" in said


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"documents": ""}, r"corpus\.jsonl is empty; write one JSON object a line"),
        ({"documents": '{"_id": "1", "text": "a"}\n\n{"_id": '}, r"corpus\.jsonl, line 3 is not JSON"),
        ({"documents": '["d1"]'}, r"corpus\.jsonl, line 1 is no JSON object"),
        ({"documents": '{"text": "a"}'}, r"line 1: '_id' is missing or empty"),
        ({"documents": '{"_id": "1"}'}, r"line 1: 'text' is missing or no string"),
        ({"documents": '{"_id": "1", "text": "a", "title": 7}'}, r"line 1: 'title' is missing or no string"),
        ({"documents": '{"_id": "1", "text": "\\ud800"}'}, r"line 1: 'text' has half of a surrogate pair"),
        (
            {"documents": '{"_id": "1", "text": "a"}\n' * 2},
            r"line 2: id '1' is already that of line 1; make",
        ),
        ({"documents": '{"_id": "1", "text": " "}'}, r"corpus\.jsonl holds no document with a text"),
        ({"queries": '{"_id": "q1", "text": 5}'}, r"queries\.jsonl, line 1: 'text' is missing or no string"),
        ({"qrels": {}}, r"qrels has no test\.tsv or dev\.tsv or train\.tsv; put the judgements there"),
        ({"qrels": {"mine": QRELS}}, r"name one of the splits that are there: mine"),
        ({"qrels": {"test": ""}}, r"test\.tsv holds no judgement"),
        ({"qrels": {"test": "q1\td1\n"}}, r"test\.tsv, line 1: has 2 columns; write 3, separated by tabs"),
        ({"qrels": {"test": QRELS + "q1 0 d3 1\n"}}, r"line 5: has 1 columns; write 3"),
        ({"qrels": {"test": "q1\td1\t1\nq1\td2\thigh\n"}}, r"line 2: grade 'high' is no whole number"),
        ({"qrels": {"test": "q1\td1\t1\nq1\td2\t-1\n"}}, r"line 2: grade -1 is negative; write 0 for not relevant"),
        ({"qrels": {"test": "q1\td1\t1\nq1\td1\t2\n"}}, r"line 2: .* already has grade 1; keep one"),
        ({"qrels": {"test": "q1\td1\t0\n"}}, r"test\.tsv: no query has a relevant document"),
        (
            {"qrels": {"test": "1\td1\t1\n2\td2\t1\n"}},
            r"2 of the 2 query ids in .* \('1', '2'\); make both",
        ),
        ({"qrels": {"test": "q1\t1\t1\nq1\t2\t1\n"}}, r"2 of the 2 document ids in .* make both name documents alike"),
        ({"ignore": "q1\n"}, r"ignore\.tsv, line 1: has 1 columns; write 2"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_place_and_the_fix(
    tmp_path: Path, parts: dict[str, object], words: str
) -> None:
    """The message names the file, the line where there is one, and what to write instead."""
    with pytest.raises(CollectionError, match=words):
        loaded(tmp_path, **parts)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    """A file that is not there, one that is no UTF-8, and a folder that does not exist."""
    where = folder(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(b'{"_id": "1", "text": "caf\xe9"}')
    with pytest.raises(CollectionError, match=r"corpus\.jsonl is not UTF-8"):
        load_collection(where)
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(CollectionError, match=r"corpus\.jsonl: No such file or directory; put the file there"):
        load_collection(where)
    with pytest.raises(CollectionError, match="there is no such file or folder; name a folder in BEIR layout"):
        load_collection(str(tmp_path / "nothing"))
    with pytest.raises(CollectionError, match=r"has no dev\.tsv; name one of the splits that are there: test"):
        load_collection(where, split="dev")


def test_a_sample_is_drawn_by_its_seed(tmp_path: Path) -> None:
    """The same seed draws the same queries, another one others; judgements follow; too few are warned about."""
    queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(40)]
    qrels = "".join(f"q{n}\td1\t1\n" for n in range(40))
    collection = loaded(tmp_path, queries=queries, qrels={"test": qrels})
    assert collection.warnings == ()
    sample = collection.sample(10, seed=1)
    assert len(sample.queries) == 10
    assert set(sample.qrels) == set(sample.queries)
    assert sample.warnings == ("only 10 queries: intervals mean little below 20",)
    assert collection.sample(10, seed=1).queries == sample.queries
    assert collection.sample(10, seed=2).queries != sample.queries
    assert collection.sample(40) is collection
    with pytest.raises(CollectionError, match="take at least 1"):
        collection.sample(0)


def test_the_digest_changes_with_any_document(tmp_path: Path) -> None:
    """Texts that only shift between two documents give another digest; the same ones the same."""
    for name in "abc":
        (tmp_path / name).mkdir()
    digests = [
        loaded(tmp_path / name, documents=[*DOCUMENTS[:3], {"_id": "x", "text": text}, {"_id": "y", "text": other}])
        for name, text, other in (("a", "ab", "c"), ("b", "a", "bc"), ("c", "ab", "c"))
    ]
    first, second, third = (collection.documents_digest for collection in digests)
    assert first == third != second
