"""A collection by its id in the catalogue of ir_datasets, which downloads what it does not have."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sidecar.calibrate.beir import titled
from sidecar.calibrate.collection import Collection, CollectionError, Document, Sources, checked

PREFIX = "ir_datasets:"
_TEXT_FIELDS = ("text", "body", "abstract", "description")
_QUERY_FIELDS = ("text", "title", "query")
_MOST_DOCUMENTS = 2_000_000


def load(identifier: str) -> Collection:
    """The documents, queries and judgements of ``identifier``, e.g. `beir/scifact/test`.

    Several catalogues judge spam with negative grades: those count as 0, and a warning says how many. Raises
    CollectionError where the library is not installed, knows no such id, can't get the files (offline), or the dataset
    has no judgements or no text.
    """
    try:
        import ir_datasets
    except ImportError:
        raise CollectionError(
            f"{PREFIX}{identifier} needs the library; install it with: pip install 'millirank-server[calibrate]'"
        ) from None
    try:
        dataset = ir_datasets.load(identifier)
    except KeyError:
        raise CollectionError(
            f"ir_datasets has no {identifier!r}; its catalogue is at https://ir-datasets.com, an id is e.g. "
            "beir/scifact/test"
        ) from None
    if missing := [part for part in ("docs", "queries", "qrels") if not dataset.has(part)]:
        raise CollectionError(f"{identifier} has no {' and no '.join(missing)}; choose a part of it that is judged")
    try:
        return _read(identifier, dataset)
    except (OSError, RuntimeError) as error:  # what requests raises for a network that is not there is an OSError
        raise CollectionError(
            f"{identifier} can't be read: {error}. ir_datasets downloads on first use; where there is no network, copy "
            "the folder ~/.ir_datasets (or $IR_DATASETS_HOME) from a machine that has read it, or make a folder in "
            "BEIR layout"
        ) from error


def _read(identifier: str, dataset: Any) -> Collection:
    if (count := dataset.docs_count() or 0) > _MOST_DOCUMENTS:
        raise CollectionError(
            f"{identifier} has {count:,} documents, more than fit into memory here ({_MOST_DOCUMENTS:,}); rank it with "
            "your own engine and make a folder in BEIR layout of the ranked documents"
        )
    warnings = []
    qrels: dict[str, dict[str, int]] = {}
    for judgement in dataset.qrels_iter():
        qrels.setdefault(judgement.query_id, {})[judgement.doc_id] = int(judgement.relevance)
    negative = Counter(grade < 0 for grades in qrels.values() for grade in grades.values())[True]
    if negative:
        warnings.append(f"{negative} judgements have a negative grade (spam, as a rule): they count as not relevant")
    queries = {query.query_id: _text(query, _QUERY_FIELDS, identifier) for query in dataset.queries_iter()}
    return checked(
        identifier,
        [_document(document, identifier) for document in dataset.docs_iter()],
        {query: text for query, text in queries.items() if query in qrels},
        {query: {document: max(0, grade) for document, grade in grades.items()} for query, grades in qrels.items()},
        labels=f"judgements of ir_datasets {identifier}",
        sources=Sources(f"{identifier} docs", f"{identifier} queries", f"{identifier} qrels"),
        warnings=warnings,
    )


def _document(document: Any, identifier: str) -> Document:
    title = str(getattr(document, "title", "") or "")
    return Document(document.doc_id, titled(title, _text(document, _TEXT_FIELDS, identifier)), title)


def _text(record: Any, fields: tuple[str, ...], identifier: str) -> str:
    for field in fields:
        value = getattr(record, field, None)
        if isinstance(value, str):
            return value
    raise CollectionError(
        f"{identifier}: {type(record).__name__} has none of the fields {', '.join(fields)}; make a folder in BEIR "
        "layout of it"
    )
