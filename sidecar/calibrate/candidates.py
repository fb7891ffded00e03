"""The first stage's candidates for every query of a collection, with their judgements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sidecar.calibrate.builtin import SUMMARY_MAX_TOKENS
from sidecar.calibrate.collection import Collection, CollectionError, Document
from sidecar.calibrate.first_stage import FirstStage, Fusion, Mode
from sidecar.calibrate.plausibility import implausible
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.trec import Run, read_runs

DEPTH = 200
"""Candidates of a query: as many as the deepest `rerank_k` that is measured."""

_Signals: TypeAlias = Mapping[str, float]
_Find: TypeAlias = Callable[[str, str, int], list[tuple[str, _Signals]]]
"""(query id, query, k) -> document ids with their signals, best first."""


def candidates(
    collection: Collection,
    first_stage: Mode | Mapping[str, Path] = "hybrid",
    *,
    depth: int = DEPTH,
    fusion: Fusion = "rrf",
    cache_dir: Path | None = None,
    progress: bool = True,
    note: Callable[[str], None] = lambda words: None,
) -> list[JudgedList]:
    """One list for every query, in the collection's order, at most ``depth`` candidates each and no raw scores.

    ``first_stage`` is our own, ``bm25`` or ``hybrid`` (fused as ``fusion`` says, see `FirstStage.search`), or names
    TREC run files by the signal that their scores are. Of several files the first one gives the candidates and their
    order, the others only their scores, so that a document they lack has no such signal (NaN). A query that nothing was
    found for has an empty list, and counts. ``cache_dir`` keeps dense vectors. Warnings go to ``note``, judgements that
    do not look right among them.

    Raises CollectionError for a file that can't be used, ValueError for ``depth`` below 1, and what `FirstStage.build`
    raises.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; ask for at least one candidate")
    if not first_stage:
        raise CollectionError("no run files: name one at least, or use the first stage bm25 or hybrid")
    hybrid = first_stage == "hybrid"
    index = FirstStage.build(
        collection.documents,
        dense=hybrid,
        dense_text=_dense_text if hybrid else None,
        dense_max_tokens=SUMMARY_MAX_TOKENS if all(document.summary for document in collection.documents) else None,
        cache_dir=cache_dir,
        progress=progress,
    )
    for warning in implausible(collection, index):
        note(warning)
    if isinstance(first_stage, str):
        find = _own(index, first_stage, fusion)
    else:
        find = _prepared(read_runs(first_stage, collection, note))
    found = {}
    for query, text in collection.queries.items():
        left_out = collection.ignored.get(query, frozenset())
        hits = [hit for hit in find(query, text, depth + len(left_out)) if hit[0] not in left_out]
        found[query] = hits[:depth]
    if empty := sum(not hits for hits in found.values()):
        note(f"the first stage finds nothing for {empty} of {len(found)} queries; no reranker can help those")
    names = sorted({name for hits in found.values() for _, signals in hits for name in signals})
    return [_judged(collection, query, hits, names) for query, hits in found.items()]


def _own(index: FirstStage, mode: Mode, fusion: Fusion) -> _Find:
    return lambda _, query, k: [(hit.id, hit.signals) for hit in index.search(query, k, mode, fusion)]


def _prepared(runs: Mapping[str, Run]) -> _Find:
    leading = next(iter(runs.values()))

    def find(query_id: str, _: str, k: int) -> list[tuple[str, _Signals]]:
        own = {name: run.get(query_id, {}) for name, run in runs.items()}
        return [
            (document, {name: scores[document] for name, scores in own.items() if document in scores})
            for document in list(leading.get(query_id, {}))[:k]
        ]

    return find


def _judged(collection: Collection, query: str, hits: list[tuple[str, _Signals]], names: list[str]) -> JudgedList:
    return JudgedList(
        query_id=query,
        query=collection.queries[query],
        ids=tuple(document for document, _ in hits),
        lengths=tuple(len(collection.texts[document]) for document, _ in hits),
        signals={name: np.array([own.get(name, np.nan) for _, own in hits], np.float64) for name in names},
        raw={},
        grades=collection.qrels[query],
    )


def _dense_text(document: Document) -> str:
    return document.summary or document.text
