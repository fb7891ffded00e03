"""What int8 costs in nDCG@10: both precisions reorder the same candidates of a first stage."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.calibrate import stdlib
from sidecar.calibrate.first_stage import FirstStage
from sidecar.calibrate.metrics import Interval, ndcg_at_10, paired_bootstrap
from sidecar.embedded.make.features import Collection, CollectionError
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Row, Section, Spread
from tests.bench.rerankers.child import Child
from tests.bench.rerankers.contenders import FP32, INT8
from tests.bench.rerankers.pairs import Cutter

DEPTH = 25
TOKENS = 128
MOST_DOCUMENTS = 2_500
MOST_ADDED = 10  # nDCG@10 sees no more
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class _Document:
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """A visible collection: queries by id, what is right for each, the documents' texts, and the index to search."""

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    texts: Mapping[str, str]
    index: FirstStage

    def candidates(self, key: str) -> list[str]:
        """Ids of what BM25 finds, and behind them the right ones that it misses.

        A list without anything right has the same nDCG in every order: it would hide what a model loses.
        """
        found = [hit.id for hit in self.index.search(self.queries[key], DEPTH)]
        right = [document for document, grade in self.qrels[key].items() if grade > 0 and document in self.texts]
        return list(dict.fromkeys([*found, *right[:MOST_ADDED]]))


def load(folder: Path | None, most_queries: int) -> Task:
    """A folder in BEIR layout, or None for the standard library's documentation. Raises BenchError."""
    if folder is None:
        documents, questions = stdlib.documents(progress=False), stdlib.questions()[:most_queries]
        index = FirstStage.build(documents, dense=False, progress=False)
        queries = {question.id: question.text for question in questions}
        by_id = {document.id: document.text for document in documents}
        return Task("the standard library", queries, stdlib.qrels(documents, questions), by_id, index)
    try:
        found = Collection.load(folder, max_queries=most_queries, max_documents=MOST_DOCUMENTS)
    except CollectionError as error:
        raise BenchError(str(error)) from None
    texts = [_Document(*each) for each in zip(found.document_ids, found.documents, strict=True)]
    queries = dict(zip(found.query_ids, found.queries, strict=True))
    by_id = {document.id: document.text for document in texts}
    return Task(found.name, queries, found.qrels, by_id, FirstStage.build(texts, dense=False, progress=False))


def measure(task: Task, children: Mapping[str, Child], steps: Steps) -> Section:
    """``children`` are this project's engine at both precisions. Raises ChildError."""
    cutter = Cutter()
    steps.begin("nDCG@10", len(task.queries))
    runs: dict[str, dict[str, list[str]]] = {precision: {} for precision in (FP32, INT8)}
    for key, query in task.queries.items():
        ids = task.candidates(key)
        texts = [cutter.cut(query, task.texts[one], TOKENS) for one in ids]
        request = {"operation": "score", "query": query, "texts": texts}
        for precision, run in runs.items():
            steps.now(precision)
            scores = children[precision].ask(request, _TIMEOUT_S)["scores"]
            run[key] = [ids[place] for place in _order(scores)]
        steps.done()
    return _section(task, runs)


def _order(scores: Sequence[float]) -> list[int]:
    """Best first; ties keep the first stage's order."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def _section(task: Task, runs: Mapping[str, Mapping[str, Sequence[str]]]) -> Section:
    values = {name: list(ndcg_at_10(task.qrels, run).values()) for name, run in runs.items()}
    means = {name: statistics.fmean(per_query) for name, per_query in values.items()}
    loss: Interval = paired_bootstrap(values[FP32], values[INT8])
    return Section(
        title=f"What int8 costs: {task.name}",
        rows=[
            *(Row(name, {"ndcg_at_10": Spread.of([mean])}) for name, mean in means.items()),
            # With its 95 % interval in place of the extremes of rounds.
            Row("fp32 - int8", {"ndcg_at_10": Spread(loss.mean, loss.low, loss.high, len(task.queries))}),
        ],
        figures={"ndcg_loss_int8": loss.mean},
        notes=(
            f"{len(task.queries)} queries; candidates: the first {DEPTH} of BM25 and the right ones that it misses, "
            f"ordered by the score alone, pairs cut to {TOKENS} tokens; in brackets the 95 % interval of the bootstrap",
            "since the right ones are added, the level says nothing about retrieval; the difference is what counts",
            "the weights are MiniLM-L6 taught for minutes by its own cosines (see prepare_checkpoint.py): an order "
            "that means something, not a good reranker",
        ),
    )
