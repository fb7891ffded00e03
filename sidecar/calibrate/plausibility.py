"""Judgements that can't be meant: shifted ids and reversed grades leave a trace in where BM25 ranks what was judged.

Copies of old collections go round in which the queries are numbered 1, 2, 3, ... in one file and by their real ids in
another, or in which 1 is the best grade (Cranfield). Every file of such a copy is well formed, and every figure wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sidecar.calibrate.collection import Collection
from sidecar.calibrate.first_stage import FirstStage

# On seven collections of very different kinds BM25's area is 0.81 to 0.98 with a query's own judgements, and smaller by
# 0.27 to 0.48 with those of another query.
_LEAST_LEAD = 0.08
_FEWEST_GRADED = 10  # queries with several grades, to say anything about their order
# Grades of the same collections in the right direction give 0.45 and more, those of Cranfield reversed far less.
_LEAST_GRADED = 0.45
_SIGMAS = 2.0


def implausible(collection: Collection, first_stage: FirstStage) -> list[str]:
    """Warnings, empty where the judgements look as they should.

    For every query the area under the ROC curve of BM25: the share of (relevant, other) pairs that BM25 has in the
    right order, ties counting half (Mann and Whitney, 1947). It has to be clearly larger than with the documents that
    are relevant for another query. The same between documents of the highest and of the lowest grade above 0 tells
    whether grades run the wrong way.
    """
    places = {document.id: position for position, document in enumerate(collection.documents)}
    judged = [
        {places[document]: grade for document, grade in collection.qrels[query].items() if grade > 0}
        for query in collection.queries
    ]
    own, others, graded = [], [], []
    for number, text in enumerate(collection.queries.values()):
        scores = first_stage.bm25(text)
        # Far away in the file: neighbours are often about the same.
        other = judged[(number + len(judged) // 2) % len(judged)]
        if not judged[number] or not other or max(len(judged[number]), len(other)) == len(scores):
            continue  # nothing or everything is relevant
        own.append(_area(scores, judged[number]))
        others.append(_area(scores, other))
        best, least = max(judged[number].values()), min(judged[number].values())
        if best > least:
            high, low = (
                scores[[place for place, grade in judged[number].items() if grade == end]] for end in (best, least)
            )
            graded.append(auc(high, low))
    return _unrelated(own, others) or _reversed(graded)


def _area(scores: NDArray[np.float32], relevant: Mapping[int, int]) -> float:
    chosen = np.zeros(len(scores), bool)
    chosen[list(relevant)] = True
    return auc(scores[chosen], scores[~chosen])


def auc(high: NDArray[np.float32], low: NDArray[np.float32]) -> float:
    """The share of pairs with ``high[i] > low[j]``, ties counting half; both hold at least one score."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left")
    not_above = np.searchsorted(ordered, high, "right")
    return float((below + not_above).mean() / 2 / len(low))


def _unrelated(own: Sequence[float], others: Sequence[float]) -> list[str]:
    if len(own) < 2 or np.mean(own) - np.mean(others) >= _LEAST_LEAD:
        return []
    return [
        "documents judged relevant for a query fit it hardly better than those of another query (BM25 ranks them "
        f"above a random document in {np.mean(own):.0%} and {np.mean(others):.0%} of cases): the judgements may belong "
        "to other queries or documents, e.g. queries numbered differently in two files"
    ]


def _reversed(areas: Sequence[float]) -> list[str]:
    if len(areas) < _FEWEST_GRADED:
        return []
    error = np.std(areas, ddof=1) / np.sqrt(len(areas))
    if np.mean(areas) + _SIGMAS * error >= _LEAST_GRADED:
        return []
    return [
        f"BM25 ranks documents of the lowest relevant grade above those of the highest in {1 - np.mean(areas):.0%} of "
        "cases: the grades may be reversed (the highest number has to be the most relevant)"
    ]
