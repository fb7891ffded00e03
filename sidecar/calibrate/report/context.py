"""What the first stage hands over: how much of what is relevant, how early, and how far reordering could get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sidecar.calibrate.metrics import ndcg_at_10
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.report.readout import Context

_RECALL_AT = 50
_PRECISION_AT = 5


def context(lists: Sequence[JudgedList], ks: Sequence[int]) -> Context:
    """Means over the queries that have a relevant document (grade 1 or more). Raises ValueError if none has."""
    answerable = [judged for judged in lists if any(grade > 0 for grade in judged.grades.values())]
    if not answerable:
        raise ValueError("no query has a relevant document: nothing can be measured")
    recalls, precisions, best = [], [], []
    for judged in answerable:
        relevant = {document for document, grade in judged.grades.items() if grade > 0}
        found = [document in relevant for document in judged.ids[:_RECALL_AT]]
        recalls.append(sum(found) / len(relevant))
        precisions.append(sum(found[:_PRECISION_AT]) / _PRECISION_AT)
        best.append(min(sum(found), _PRECISION_AT) / _PRECISION_AT)
    qrels = {judged.query_id: judged.grades for judged in lists}
    ceiling = []
    for k in ks:
        perfect = {judged.query_id: _perfect(judged.ids[:k], judged.grades)[:10] for judged in lists}
        ceiling.append((k, float(np.mean(list(ndcg_at_10(qrels, perfect).values())))))
    return Context(float(np.mean(recalls)), float(np.mean(precisions)), float(np.mean(best)), tuple(ceiling))


def _perfect(ids: Sequence[str], grades: Mapping[str, int]) -> list[str]:
    return sorted(ids, key=lambda document: -grades.get(document, 0))
