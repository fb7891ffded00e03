"""What every reranker costs at every k, as a caller sees it, through the real service.

One request at a time, the reranker forced, the whole list sent, caches bypassed. Every (reranker, k, cold or warm) is a
cell; the cells' requests take turns in an order that is drawn anew for every round, so that whatever else the machine
does hits all of them alike. The first requests of each cell are not counted: they warm up, and tell how many the rest
of the time has room for.

What a request was estimated to compute, which the router predicts its time from, is in the sidecars' own records of
their decisions, read once they have ended.

Warm is a sidecar that has read every candidate before, for another query. Cold is one that keeps no vectors, so that
every document is new to it in every request; it is measured where that makes a difference, for late interaction.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from millirank import Client, Document, Outcome, Ranking, Strategy

from router.profile import SIGNALS_ARM
from sidecar.calibrate.collection import Collection
from sidecar.calibrate.latency_plan import affordable, spread
from sidecar.calibrate.planned_work import planned_tokens
from sidecar.calibrate.progress import bar
from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.calibrate.sweep_sidecar import (
    UNLIMITED_MS,
    Arm,
    SweepSidecar,
    Texts,
    ask,
    faster_when_warm,
    forgetful,
    keeps_vectors,
    remembering,
    sweep_sidecar,
)
from sidecar.settings import Settings
from sidecar.worker_messages import KEPT_QUERIES

KS = (10, 25, 50, 100, 200)
REQUESTS = 50
"""Requests of a cell, where there is time for them."""
NONE_ARM = Strategy.NONE.value
_QUERIES = 10  # reading the candidates of more, so that they are warm, would take minutes
_TRIES = 2
_LONG_S = 1.0  # nothing that takes longer is tried twice
_FEWEST = 3  # requests of a cell, however long they take
_PLANNED_SHARE = 0.9  # of the time left: requests may take longer than when they were tried
_READING_SHARE = 0.4  # of the time, for reading candidates so that they are warm


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is measured: `none` and `signals` are strategies, everything else a reranker's name."""

    reranker: str
    rerank_k: int
    warm: bool
    client: Client

    @property
    def label(self) -> str:
        """Its name for a person."""
        return f"{self.reranker}@{self.rerank_k}{'' if self.warm else ' cold'}"


class _Timed(NamedTuple):
    """A sample that does not know its tokens yet, and the decision that knows them."""

    sample: LatencySample
    decision_id: str


def sweep_latency(
    collection: Collection,
    lists: Sequence[JudgedList],
    settings: Settings,
    *,
    cache_dir: Path,
    ks: Sequence[int] = KS,
    requests: int = REQUESTS,
    indexed_as: str = "",
    cold: bool = True,
    limit_s: float | None = None,
    seed: int = 0,
    progress: bool = True,
    note: Callable[[str], None] = lambda words: None,
) -> list[LatencySample]:
    """``requests`` samples of NONE (`rerank_k` 0) and, at each of ``ks``, of SIGNALS and every reranker that can score.

    They come in the order measured. A reranker that keeps nothing about documents is measured once, as warm.
    ``limit_s`` (seconds) is for all of it, the preparation included: where it is too short, the cells whose requests
    take longest get fewer of them, three at least, and that is said to ``note``, as are a k that is deeper than the
    lists, and requests that failed, which are no samples. Ten queries, drawn by ``seed``, are asked over and over, each
    time with other blanks before them, so that no vector kept for a query answers. ``cache_dir`` keeps token vectors;
    ``indexed_as`` is as in `sweep_quality`. Without ``cold`` nothing is timed with new documents, which takes by far
    the most time.

    Raises SweepError where nothing can be measured, PrivateSidecarError where a sidecar does not start or ends.
    """
    end = None if limit_s is None else time.monotonic() + limit_s
    depths = _depths(lists, ks, note)
    asked = _asked(lists, depths[-1], seed)
    texts = Texts(collection, indexed_as)
    longest = max(len(judged.query) for judged in asked) + 1 + _variants(1)
    with tempfile.TemporaryDirectory(prefix="millirank-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)

        def start(own: Settings, name: str, say: Callable[[str], None]) -> SweepSidecar:
            return stack.enter_context(sweep_sidecar(own, folder, name, asked[0], texts, longest, say))

        warm = start(remembering(settings, cache_dir), "warm", note)
        sidecars = [warm]
        cells = [_Cell(NONE_ARM, 0, True, warm.client)]
        cells += [_Cell(SIGNALS_ARM, k, True, warm.client) for k in depths]
        cells += [_Cell(arm.name, k, True, warm.client) for arm in warm.arms for k in _taken(depths, arm)]
        keeping = [arm.name for arm in warm.arms if keeps_vectors(settings.rerankers[arm.name])]
        if keeping and cold:
            forgetting = start(forgetful(settings), "cold", lambda words: None)
            sidecars.append(forgetting)
            new = [arm for arm in forgetting.arms if faster_when_warm(settings, arm.name)]
            cells += [_Cell(arm.name, k, False, forgetting.client) for arm in new for k in _taken(depths, arm)]
        searches = [(judged.query, texts.of(judged)) for judged in asked]
        read = _read(warm, keeping, searches, limit_s, progress)
        if read < len(searches):
            note(f"there was time to read the candidates of {read} queries: only those are asked")
        timed = _Run(cells, searches[:read], sidecars, note).measure(requests, end, seed, progress)
        stack.close()  # a sidecar that has ended has written all of its decisions
        return _with_tokens(timed, [each.decisions for each in sidecars], note)


def _depths(lists: Sequence[JudgedList], ks: Sequence[int], note: Callable[[str], None]) -> list[int]:
    """The ks, ascending, that enough lists are deep enough for. Raises SweepError where none is."""
    lengths = [len(judged.ids) for judged in lists if judged.ids]
    wanted = min(_QUERIES, len(lengths))
    depths = [k for k in sorted(set(ks)) if sum(length >= k for length in lengths) >= max(1, wanted)]
    if not depths:
        raise SweepError(
            f"no k of {', '.join(map(str, ks))} fits: the longest list has {max(lengths, default=0)} candidates"
        )
    if shallow := [str(k) for k in sorted(set(ks)) if k not in depths]:
        note(f"latency is not measured at k = {', '.join(shallow)}: too few lists are that long")
    return depths


def _taken(depths: Sequence[int], arm: Arm) -> list[int]:
    """The ks that differ for an arm: a listwise LLM scores its 50 whatever is asked of it."""
    return sorted({min(k, arm.most_documents) for k in depths})


def _asked(lists: Sequence[JudgedList], depth: int, seed: int) -> list[JudgedList]:
    deep = [judged for judged in lists if len(judged.ids) >= depth]
    return random.Random(seed).sample(deep, min(_QUERIES, len(deep)))


def _read(
    warm: SweepSidecar,
    keeping: Sequence[str],
    searches: Sequence[tuple[str, list[Document]]],
    limit_s: float | None,
    progress: bool,
) -> int:
    """Have late interaction read the candidates; gives the number of queries, one at least, that it had time for."""
    end = None if limit_s is None else time.monotonic() + _READING_SHARE * limit_s
    done = 0
    with bar("Reading candidates, so that they are warm", len(searches), progress) as advance:
        for query, documents in searches:
            if done and end is not None and time.monotonic() > end:
                break
            for name in keeping:
                ask(warm.client, query, documents, name)
            done += 1
            advance(1)
    return done


def _variants(queries: int) -> int:
    """How often one of so many queries is asked, each time with other blanks, before the first of them comes again.

    By then it has long left the store of query vectors.
    """
    return math.ceil(2 * KEPT_QUERIES / queries)


class _Run:
    """The requests of one sweep."""

    def __init__(
        self,
        cells: Sequence[_Cell],
        searches: Sequence[tuple[str, list[Document]]],
        sidecars: Sequence[SweepSidecar],
        note: Callable[[str], None],
    ) -> None:
        self._cells = cells
        self._searches = searches
        self._sidecars = sidecars
        self._note = note
        self._sent: Counter[_Cell] = Counter()
        self._asked: Counter[tuple[str, bool, int]] = Counter()

    def measure(self, requests: int, end: float | None, seed: int, progress: bool) -> list[_Timed]:
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
        timed: list[_Timed] = []
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

    def _sample(self, cell: _Cell) -> _Timed | str:
        """One request; why there is no sample, where it was not answered as planned."""
        number = self._sent[cell] % len(self._searches)
        self._sent[cell] += 1
        query, documents = self._searches[number]
        asked = (cell.reranker, cell.warm, number)
        # The same tokens, but nothing that was kept for them. In front: behind a long query nobody would see them.
        query = " " * (1 + self._asked[asked] % _variants(len(self._searches))) + query
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
        return _Timed(sample, decision.id)


def _with_tokens(
    timed: Sequence[_Timed], decisions: Sequence[Path], note: Callable[[str], None]
) -> list[LatencySample]:
    """The samples with what each was estimated to compute; one that left no record of its decision is left out."""
    wanted = {
        decision_id: (sample.reranker, sample.rerank_k)
        for sample, decision_id in timed
        if sample.reranker not in (NONE_ARM, SIGNALS_ARM)
    }
    tokens = planned_tokens(decisions, wanted)
    if lost := len(wanted) - len(tokens):
        note(f"{lost} requests left no record of their decision and are not counted")
    return [
        replace(sample, tokens=tokens.get(decision_id, 0))
        for sample, decision_id in timed
        if decision_id not in wanted or decision_id in tokens
    ]


def _send(cell: _Cell, query: str, documents: Sequence[Document]) -> Ranking[Document]:
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
