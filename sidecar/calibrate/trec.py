"""Rankings of the user's own search engine, in the format of trec_eval: `query Q0 document rank score tag`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from router.profile import RANK_SIGNAL
from sidecar.calibrate.collection import Collection, CollectionError
from sidecar.calibrate.lines import read_lines

Run = dict[str, dict[str, float]]
"""Query id -> document id -> score, best first."""

_COLUMNS = "query id, Q0, document id, rank, score, tag"
_MOST_UNKNOWN_SHARE = 0.5


def read_run(path: Path) -> Run:
    """The rankings, each ordered by its rank column. Raises CollectionError naming the line and the fix."""
    ranked: dict[str, dict[str, tuple[int, float]]] = {}
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        columns = line.split()
        if len(columns) != 6:
            raise CollectionError(f"{where}: has {len(columns)} columns; write 6, separated by blanks: {_COLUMNS}")
        query, _, document, rank, score, _ = columns
        try:
            place, value = int(rank), float(score)
        except ValueError:
            raise CollectionError(
                f"{where}: rank {rank!r} and score {score!r} must be a whole number and a number; write {_COLUMNS}"
            ) from None
        if not math.isfinite(value):
            raise CollectionError(f"{where}: score {score} is not finite; leave the document out")
        if document in ranked.setdefault(query, {}):
            raise CollectionError(f"{where}: query {query!r} already has document {document!r}; keep one of the lines")
        ranked[query][document] = place, value
    if not ranked:
        raise CollectionError(f"{path} holds no ranking; write lines of {_COLUMNS}")
    return {
        query: {document: score for document, (_, score) in sorted(found.items(), key=lambda item: item[1][0])}
        for query, found in ranked.items()
    }


def read_runs(files: Mapping[str, Path], collection: Collection, note: Callable[[str], None]) -> dict[str, Run]:
    """Signal name -> its rankings of the collection's queries, without documents that the collection does not have.

    What was left out is said to ``note``. Raises CollectionError for a name that no signal can have, a file that can't
    be read, or one that fits the collection badly.
    """
    for name in files:
        if not name or name == RANK_SIGNAL or "+" in name:
            raise CollectionError(f"a signal can't be named {name!r}; choose another name, such as bm25 or dense")
    return {name: _fitting(read_run(path), path, collection, note) for name, path in files.items()}


def _fitting(run: Run, path: Path, collection: Collection, note: Callable[[str], None]) -> Run:
    own = {query: run[query] for query in collection.queries if query in run}
    if not own:
        raise CollectionError(
            f"{path} ranks none of the queries of {collection.name}; name queries as its judgements do"
        )
    if len(own) < len(collection.queries):
        missing = len(collection.queries) - len(own)
        note(f"{path} has no ranking for {missing} of {len(collection.queries)} queries: they count as finding nothing")
    total = sum(map(len, own.values()))
    unknown = sum(document not in collection.texts for found in own.values() for document in found)
    if unknown > _MOST_UNKNOWN_SHARE * total:
        raise CollectionError(
            f"{path}: {unknown} of {total} ranked documents are not in {collection.name}; name them as its corpus does"
        )
    if unknown:
        note(f"{path}: {unknown} of {total} ranked documents are not in {collection.name}: left out")
    crossed = sum(any(a < b for a, b in pairwise(found.values())) for found in own.values())
    if crossed:
        note(f"{path}: in {crossed} of {len(own)} rankings the scores do not fall with the rank; the rank is the order")
    return {
        query: {document: score for document, score in found.items() if document in collection.texts}
        for query, found in own.items()
    }
