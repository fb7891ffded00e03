"""Shadow evaluations on record, for `millirank calibrate`: numbers and configured names, never a query or a document.

A file of JSON lines, one an evaluation; every list is over the first k candidates in first-stage order::

    {"format": "millirank.shadow/1", "id": "5f0e...", "at": 1786180000.25, "corpus": "legal",
     "query": {"words": 4, "question": true, "identifiers": false},
     "strategy": "late_interaction",                    what the caller got
     "answer": {"name": "minilm-l6", "strategy": "late_interaction", "revision": "..."},   null: no model answered
     "reference": {"name": "bge", "strategy": "cross_encoder", "revision": "..."},
     "rbo": 0.83, "ndcg": 0.91,                         null: the reference scored all alike
     "order": [3, 0, 1, ...],                           the answer's, as positions
     "lengths": [512, ...],                             characters
     "signals": {"bm25": [12.5, null, ...]},            those that at least half of the candidates carry
     "scores": {"bge": [0.7, ...], "minilm-l6": [11.2, null, ...]}}    the rerankers' own
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sidecar.decision_log import dumps
from sidecar.line_file import LineFile
from sidecar.shadow import Evaluation

FORMAT = "millirank.shadow/1"


class ShadowLog:
    """Writes evaluations to a `LineFile`."""

    def __init__(self, path: Path, max_bytes: int, on_drop: Callable[[], None] = lambda: None) -> None:
        """Raises OSError when the file can't be opened."""
        self._file: LineFile[tuple[float, Evaluation]] = LineFile(path, max_bytes, _encode, on_drop)

    def record(self, evaluation: Evaluation) -> None:
        """Put an evaluation on record; never blocks."""
        self._file.put((time.time(), evaluation))

    def close(self) -> None:
        """Write what waits. Blocks."""
        self._file.close()


def _encode(record: tuple[float, Evaluation], new_file: bool) -> str:
    at, evaluation = record
    traits = evaluation.traits
    scores = {} if evaluation.answer is None else {evaluation.answer.name: evaluation.answer_scores}
    line = {
        "format": FORMAT,
        "id": evaluation.id,
        "at": at,
        "corpus": evaluation.corpus,
        "query": {"words": traits.query_words, "question": traits.question, "identifiers": traits.identifiers},
        "strategy": evaluation.strategy,
        "answer": evaluation.answer,
        "reference": evaluation.reference,
        "rbo": evaluation.rbo,
        "ndcg": evaluation.ndcg,
        "order": evaluation.answered,
        "lengths": evaluation.lengths,
        "signals": evaluation.signals,
        # Last, because it covers all candidates also where the reference was the answer's arm.
        "scores": {**scores, evaluation.reference.name: evaluation.reference_scores},
    }
    return dumps(line) + "\n"
