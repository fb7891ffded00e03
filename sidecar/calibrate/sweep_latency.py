"""What every reranker costs at every k, as a caller sees it, through the real service.

One request at a time, the reranker forced, the whole list sent, caches bypassed. Every (reranker, k, cold or warm) is a
cell of `timed_requests`.

What a request was estimated to compute, which the router predicts its time from, is in the sidecars' own records of
their decisions, read once they have ended.

Warm is a sidecar that has read every candidate before, for another query. Cold is one that keeps no vectors, so that
every document is new to it in every request; it is measured where that makes a difference, for late interaction.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from millirank import Document

from router.profile import SIGNALS_ARM
from sidecar.calibrate.collection import Collection
from sidecar.calibrate.planned_work import planned_tokens
from sidecar.calibrate.progress import bar
from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.calibrate.sweep_sidecar import (
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
from sidecar.calibrate.timed_requests import NONE_ARM, Cell, Timed, TimedRequests, variants
from sidecar.settings import Settings

KS = (10, 25, 50, 100, 200)
REQUESTS = 50
"""Requests of a cell, where there is time for them."""
_QUERIES = 10  # reading the candidates of more, so that they are warm, would take minutes
_READING_SHARE = 0.4  # of the time, for reading candidates so that they are warm


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
    longest = max(len(judged.query) for judged in asked) + 1 + variants(1)
    with tempfile.TemporaryDirectory(prefix="millirank-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)

        def start(own: Settings, name: str, say: Callable[[str], None]) -> SweepSidecar:
            return stack.enter_context(sweep_sidecar(own, folder, name, asked[0], texts, longest, say))

        warm = start(remembering(settings, cache_dir), "warm", note)
        sidecars = [warm]
        cells = [Cell(NONE_ARM, 0, True, warm.client)]
        cells += [Cell(SIGNALS_ARM, k, True, warm.client) for k in depths]
        cells += [Cell(arm.name, k, True, warm.client) for arm in warm.arms for k in _taken(depths, arm)]
        keeping = [arm.name for arm in warm.arms if keeps_vectors(settings.rerankers[arm.name])]
        if keeping and cold:
            forgetting = start(forgetful(settings), "cold", lambda words: None)
            sidecars.append(forgetting)
            new = [arm for arm in forgetting.arms if faster_when_warm(settings, arm.name)]
            cells += [Cell(arm.name, k, False, forgetting.client) for arm in new for k in _taken(depths, arm)]
        searches = [(judged.query, texts.of(judged)) for judged in asked]
        read = _read(warm, keeping, searches, limit_s, progress)
        if read < len(searches):
            note(f"there was time to read the candidates of {read} queries: only those are asked")
        timed = TimedRequests(cells, searches[:read], sidecars, note).measure(requests, end, seed, progress)
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


def _with_tokens(timed: Sequence[Timed], decisions: Sequence[Path], note: Callable[[str], None]) -> list[LatencySample]:
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
