"""A folder in BEIR layout: `corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`, and perhaps `ignore.tsv`."""

from __future__ import annotations

from pathlib import Path

from sidecar.calibrate.collection import Collection, CollectionError, Document, Sources, checked
from sidecar.calibrate.lines import read_entries, read_rows, string

_SPLITS = ("test", "dev", "train")
_DOCUMENT = '{"_id": "7", "title": "...", "text": "..."}'
_QUERY = '{"_id": "q7", "text": "..."}'


def load(folder: Path, split: str = "") -> Collection:
    """The collection in ``folder``, judged by ``qrels/SPLIT.tsv``; '' takes the first of test, dev and train.

    Corpus and queries are JSON lines with `_id`, `text` and, for documents, perhaps `title`. Judgements are lines of
    query id, document id and a whole number, separated by tabs, under a header or not; `ignore.tsv` has the first two
    of these columns. Queries that the split does not judge belong to other splits and are left out without a word.
    Raises CollectionError naming the file, the line and the fix.
    """
    corpus, queries, ignore = folder / "corpus.jsonl", folder / "queries.jsonl", folder / "ignore.tsv"
    qrels_file = _qrels_file(folder / "qrels", split)
    documents = []
    for where, identifier, entry in read_entries(corpus, "_id", _DOCUMENT):
        title = string(entry, "title", where, _DOCUMENT, default="")
        documents.append(Document(identifier, titled(title, string(entry, "text", where, _DOCUMENT)), title))
    qrels = read_qrels(qrels_file)
    texts = {
        identifier: string(entry, "text", where, _QUERY)
        for where, identifier, entry in read_entries(queries, "_id", _QUERY)
    }
    name = folder.resolve().name
    return checked(
        name,
        documents,
        {identifier: text for identifier, text in texts.items() if identifier in qrels},
        qrels,
        labels=f"judgements of {name}/qrels/{qrels_file.name}",
        sources=Sources(str(corpus), str(queries), str(qrels_file), str(ignore)),
        ignored=_read_ignored(ignore) if ignore.exists() else None,
    )


def titled(title: str, text: str) -> str:
    """One text of both, as a search engine would send it."""
    return f"{title}. {text}" if title.strip() and text.strip() else f"{title}{text}"


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade. Raises CollectionError for what is no judgement or contradicts another one."""
    judged: dict[str, dict[str, int]] = {}
    for number, (query, document, grade) in read_rows(path, 3, "query id, document id, grade"):
        where = f"{path}, line {number}"
        if not grade.removeprefix("-").isdecimal():
            if number == 1:
                continue  # the header
            raise CollectionError(f"{where}: grade {grade!r} is no whole number; write 0, 1, 2, ...")
        if int(grade) < 0:
            raise CollectionError(
                f"{where}: grade {grade} is negative; write 0 for not relevant, larger numbers for more relevant"
            )
        grades = judged.setdefault(query, {})
        if grades.setdefault(document, int(grade)) != int(grade):
            raise CollectionError(
                f"{where}: query {query!r}, document {document!r} already has grade {grades[document]}; "
                "keep one of the two lines"
            )
    if not judged:
        raise CollectionError(f"{path} holds no judgement; write lines of query id, document id and grade")
    return judged


def _read_ignored(path: Path) -> dict[str, set[str]]:
    pairs: dict[str, set[str]] = {}
    for number, (query, document) in read_rows(path, 2, "query id, document id"):
        if number > 1 or query not in ("query-id", "query_id"):
            pairs.setdefault(query, set()).add(document)
    return pairs


def _qrels_file(folder: Path, split: str) -> Path:
    names = (split,) if split else _SPLITS
    for name in names:
        if (folder / f"{name}.tsv").is_file():
            return folder / f"{name}.tsv"
    splits = sorted(path.stem for path in folder.glob("*.tsv"))
    there = f"name one of the splits that are there: {', '.join(splits)}" if splits else "put the judgements there"
    raise CollectionError(f"{folder} has no {' or '.join(f'{name}.tsv' for name in names)}; {there}")
