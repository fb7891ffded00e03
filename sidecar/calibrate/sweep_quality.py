"""What every reranker makes of every candidate, through the real service: each pair is scored once, at the deepest k.

What a reranker would have answered for fewer candidates follows from that, because a score does not depend on what
else is in the list. A cascade's scores do, but they follow from its stages' (`sidecar.calibrate.cascades`). So do those
of a listwise LLM, which is called once, with as many candidates as it takes, and of a cascade with one: for those, what
follows for fewer candidates is an estimate.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from millirank import Document, Outcome, Ranking, Strategy

from sidecar.calibrate.cascades import derivable, scores_at
from sidecar.calibrate.collection import Collection
from sidecar.calibrate.progress import bar
from sidecar.calibrate.records import Floats, JudgedList, Stages
from sidecar.calibrate.score_store import ScoreStore
from sidecar.calibrate.sweep_sidecar import Arm, SweepSidecar, Texts, ask, remembering, sweep_sidecar
from sidecar.reranker_settings import CascadeSettings
from sidecar.settings import Settings

QUALITY_SHARE = 0.6
"""Of the time for a calibration, how much may go into scoring; the rest is for measuring latency."""
_GIVE_UP_AFTER = 5  # failures in a row, before anything was scored


class SweepError(Exception):
    """Nothing could be measured. The message says why."""


def sweep_quality(
    collection: Collection,
    lists: Sequence[JudgedList],
    settings: Settings,
    *,
    cache_dir: Path,
    indexed_as: str = "",
    limit_s: float | None = None,
    seed: int = 0,
    progress: bool = True,
    note: Callable[[str], None] = lambda words: None,
) -> list[JudgedList]:
    """The lists with `raw` scores of every enabled reranker of ``settings`` that can score them, in their order.

    Scores are kept in ``cache_dir``, token vectors too. With ``limit_s`` (seconds) queries are taken in an order drawn
    by ``seed`` until time is up, and only those that every reranker has scored are returned. ``indexed_as`` names an
    index that holds the documents, for rerankers that score over one. A reranker that fails for a query has NaN there;
    one that fails from the start is left out. All of this is said to ``note``; documents that a reranker does not take
    (an LLM takes 50) are NaN without a word. A reranker that made the judgements itself is left out, too.

    Raises SweepError where no reranker or no query can be measured, PrivateSidecarError where the sidecar does not
    start, OSError where ``cache_dir`` can't be written.
    """
    asked = [judged for judged in lists if judged.ids]
    if not asked:
        raise SweepError("the first stage found nothing for any query; there is nothing to rerank")
    started = time.monotonic()
    texts = Texts(collection, indexed_as)
    longest = max(len(judged.query) for judged in asked)
    example = max(asked, key=lambda judged: len(judged.ids))
    # The pool is closed after the client: closing the client ends the calls that its threads wait for.
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millirank-")))
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=max(1, len(settings.rerankers))))
        running = stack.enter_context(
            sweep_sidecar(remembering(settings, cache_dir), folder, "quality", example, texts, longest, note)
        )
        arms = [arm for arm in running.arms if not _made_labels(arm.name, settings, collection.judge, note)]
        if not arms:
            raise SweepError("no reranker can be measured; enable one in the settings")
        cascades = derivable(settings, [arm.name for arm in arms])
        for arm in arms:
            if arm.strategy is Strategy.CASCADE and arm.name not in cascades:
                note(
                    f"{arm.name} is a cascade that does not follow from its stages' scores, so its quality at fewer "
                    f"than {len(example.ids)} candidates is an estimate from its scores there"
                )
        asked_for = [arm for arm in arms if arm.name not in cascades]
        sweep = _Sweep(running, asked_for, texts, collection, cache_dir / "calibrate", pool)
        order = list(asked)
        random.Random(seed).shuffle(order)
        with bar("Scoring the candidates", len(order), progress) as advance:
            for judged in order:
                if limit_s is not None and time.monotonic() - started > limit_s:
                    break
                sweep.score(judged)
                advance(1)
    return [_with_cascades(judged, cascades) for judged in sweep.result(lists, note)]


def _with_cascades(judged: JudgedList, cascades: Mapping[str, Stages]) -> JudgedList:
    """Those whose stages both have scores."""
    own = {name: each for name, each in cascades.items() if each.first in judged.raw and each.second in judged.raw}
    known = replace(judged, cascades=own)
    derived = {name: scores_at(known, name, len(judged.ids)) for name in own}
    return replace(known, raw={**judged.raw, **derived})


def _made_labels(name: str, settings: Settings, judge: str, note: Callable[[str], None]) -> bool:
    """Whether a reranker, or a stage of it, made the judgements that it would be measured on."""
    configured = settings.rerankers[name]
    stages = (configured.first, configured.second) if isinstance(configured, CascadeSettings) else (name,)
    if not judge or judge not in stages:
        return False
    note(f"{name} is not measured: {judge} made these labels, so they would only show that it agrees with itself")
    return True


class _Sweep:
    """The scores so far, and which arms still take part."""

    def __init__(
        self,
        running: SweepSidecar,
        arms: Sequence[Arm],
        texts: Texts,
        collection: Collection,
        folder: Path,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._running = running
        self._texts = texts
        self._pool = pool
        self._stores = {
            arm.name: ScoreStore(
                folder,
                documents_digest=collection.documents_digest,
                reranker=arm.name,
                revision=arm.revision,
            )
            for arm in arms
        }
        self._scores: dict[str, dict[str, Floats]] = {arm.name: {} for arm in arms}
        self._failures: dict[str, list[str]] = {arm.name: [] for arm in arms}

    def score(self, judged: JudgedList) -> None:
        """Scores of every arm for one list, side by side: each local model runs in a process of its own.

        Raises PrivateSidecarError when the sidecar has ended.
        """
        missing = []
        for name in self._arms():
            kept = self._stores[name].get(judged)
            if kept is None:
                missing.append(name)
            else:
                self._scores[name][judged.query_id] = kept
        if not missing:
            return
        documents = self._texts.of(judged)
        calls = {name: self._pool.submit(ask, self._running.client, judged.query, documents, name) for name in missing}
        for name, call in calls.items():
            ranking = call.result()
            scores = raw_scores(ranking)
            if ranking.outcome is Outcome.RANKED:
                self._stores[name].put(judged, scores)
            else:
                self._running.process.check()
                self._failures[name].append("; ".join(each.detail for each in ranking.degradations))
            self._scores[name][judged.query_id] = scores

    def _arms(self) -> list[str]:
        """Those that have not failed from the start."""
        return [
            name
            for name, failures in self._failures.items()
            if len(failures) < max(_GIVE_UP_AFTER, len(self._scores[name]))
        ]

    def result(self, lists: Sequence[JudgedList], note: Callable[[str], None]) -> list[JudgedList]:
        """The lists that every remaining arm was asked for, empty ones included."""
        arms = self._arms()
        for name, failures in self._failures.items():
            if failures:
                count = f"{len(failures)} of {len(self._scores[name])} queries"
                left_out = "" if name in arms else " and is left out"
                note(f"{name} failed for {count}{left_out}: {failures[-1]}")
        if not arms:
            raise SweepError("every reranker failed; see the notes")
        done = [
            judged for judged in lists if not judged.ids or all(judged.query_id in self._scores[name] for name in arms)
        ]
        if not any(judged.ids for judged in done):
            raise SweepError("time was up before one query was scored; allow more of it")
        if len(done) < len(lists):
            note(f"time was up after {len(done)} of {len(lists)} queries; run it again to go on from there")
        empty = np.empty(0, np.float64)
        return [
            replace(judged, raw={name: self._scores[name].get(judged.query_id, empty) for name in arms})
            for judged in done
        ]


def raw_scores(ranking: Ranking[Document]) -> Floats:
    """The model's own scores, float64 [n] in first-stage order; NaN where a candidate has none."""
    scores = np.full(len(ranking), np.nan)
    for ranked in ranking:
        if ranked.raw_score is not None:
            scores[ranked.index] = ranked.raw_score
    return scores
