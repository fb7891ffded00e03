"""Requests of every cell of a latency sweep, sent in turns and timed; how many each gets is affordable.

The cells' requests take turns in an order that is drawn anew for every round, so that whatever else the machine does
hits all of them alike. The first requests of each cell are not counted: they warm up, and tell how many the rest of the
time has room for.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from millirank import Client, Document, Outcome, Ranking, Strategy

from router.profile import SIGNALS_ARM
from sidecar.calibrate.latency_plan import affordable, spread
from sidecar.calibrate.progress import bar
from sidecar.calibrate.records import LatencySample
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.calibrate.sweep_sidecar import UNLIMITED_MS, SweepSidecar, ask
from sidecar.worker_messages import KEPT_QUERIES

NONE_ARM = Strategy.NONE.value
_TRIES = 2
_LONG_S = 1.0  # nothing that takes longer is tried twice
_FEWEST = 3  # requests of a cell, however long they take
_PLANNED_SHARE = 0.9  # of the time left: requests may take longer than when they were tried


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured: `none` and `signals` are strategies, everything else a reranker's name."""

    reranker: str
    rerank_k: int
    warm: bool
    client: Client

    @property
    def label(self) -> str:
        """Its name for a person."""
        return f"{self.reranker}@{self.rerank_k}{'' if self.warm else ' cold'}"


class Timed(NamedTuple):
    """A sample that does not know its tokens yet, and the decision that knows them."""

    sample: LatencySample
    decision_id: str


def variants(queries: int) -> int:
    """How often one of so many queries is asked, each time with other blanks, before the first of them comes again.

    By then it has long left the store of query vectors.
    """
    return math.ceil(2 * KEPT_QUERIES / queries)


class TimedRequests:
    """The requests of one sweep."""

    def __init__(
        self,
        cells: Sequence[Cell],
        searches: Sequence[tuple[str, list[Document]]],
        sidecars: Sequence[SweepSidecar],
        note: Callable[[str], None],
    ) -> None:
        self._cells = cells
        self._searches = searches
        self._sidecars = sidecars
        self._note = note
        self._sent: Counter[Cell] = Counter()
        self._asked: Counter[tuple[str, bool, int]] = Counter()

    def measure(self, requests: int, end: float | None, seed: int, progress: bool) -> list[Timed]:
        """What was measured; ``end`` is when to be done (monotonic clock). Raises SweepError where NONE was not."""
        costs = self._try(progress)
        left_s = None if end is None else max(0.0, end - time.monotonic())
        plan = affordable(costs, requests, None if left_s is None else _PLANNED_SHARE * left_s, _FEWEST)
        if short := [
            f"{cell.label}: {count} (of {cost:.1f} s each)"
            for cell, count, cost in zip(self._cells, plan, costs, strict=True)
            if count < requests
        ]:
            self._note(f"fewer than {requests} requests, for lack of time: {', '.join(short)}")
        planned_s = sum(count * cost for count, cost in zip(plan, costs, strict=True))
        stop = None if end is None else max(end, time.monotonic() + planned_s)
        timed: list[Timed] = []
        failures: dict[str, list[str]] = {}
        order = random.Random(seed)
        with bar("Measuring latency", sum(plan), progress) as advance:
            for turn in spread(plan):
                order.shuffle(turn)
                for cell in (self._cells[place] for place in turn):
                    if stop is not None and time.monotonic() > stop:
                        break
                    sample = self._sample(cell)
                    if isinstance(sample, str):
                        failures.setdefault(cell.label, []).append(sample)
                    else:
                        timed.append(sample)
                    advance(1)
        for label, reasons in failures.items():
            self._note(f"{label}: {len(reasons)} requests failed and are not counted: {reasons[-1]}")
        if missing := sum(plan) - len(timed) - sum(map(len, failures.values())):
            self._note(f"requests took longer than when they were tried: {missing} of {sum(plan)} were not sent")
        if not any(sample.reranker == NONE_ARM for sample, _ in timed):
            raise SweepError("no request without reranking was answered; see the notes")
        return timed

    def _try(self, progress: bool) -> list[float]:
        """Seconds that a request of each cell takes, after what only the first one takes."""
        costs = []
        with bar("Trying every reranker at every k", len(self._cells), progress) as advance:
            for cell in self._cells:
                took_s: list[float] = []
                while len(took_s) < _TRIES and (not took_s or took_s[-1] < _LONG_S):
                    began = time.monotonic()
                    self._sample(cell)
                    took_s.append(time.monotonic() - began)
                costs.append(took_s[-1])
                advance(1)
        return costs

    def _sample(self, cell: Cell) -> Timed | str:
        """One request; why there is no sample, where it was not answered as planned."""
        number = self._sent[cell] % len(self._searches)
        self._sent[cell] += 1
        query, documents = self._searches[number]
        asked = (cell.reranker, cell.warm, number)
        # The same tokens, but nothing that was kept for them. In front: behind a long query nobody would see them.
        query = " " * (1 + self._asked[asked] % variants(len(self._searches))) + query
        self._asked[asked] += 1
        began = time.perf_counter()
        ranking = _send(cell, query, documents)
        elapsed_ms = (time.perf_counter() - began) * 1e3
        timing, usage, decision = ranking.timing, ranking.usage, ranking.decision
        if ranking.outcome is not Outcome.RANKED or timing is None or usage is None or decision is None:
            for sidecar in self._sidecars:
                sidecar.process.check()
            return "; ".join(each.detail for each in ranking.degradations)
        sample = LatencySample(
            reranker=cell.reranker,
            rerank_k=cell.rerank_k,
            warm=cell.warm,
            elapsed_ms=elapsed_ms,
            stage_ms=timing.total_ms - timing.route_ms - timing.queue_ms,
            tokens=0,
            pairs=usage.pairs,
            micro_usd=usage.cost_micro_usd,
        )
        return Timed(sample, decision.id)


def _send(cell: Cell, query: str, documents: Sequence[Document]) -> Ranking[Document]:
    if cell.reranker not in (NONE_ARM, SIGNALS_ARM):
        return ask(cell.client, query, documents, cell.reranker, cell.rerank_k)
    return cell.client.rerank(
        query,
        documents,
        budget_ms=UNLIMITED_MS,
        strategy=cell.reranker,
        rerank_k=cell.rerank_k,
        use_cache=False,
    )
