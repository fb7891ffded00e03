"""Everything that the built-in rerankers say about one collection, over both first stages, through the real service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from router.arms import Strategy
from sidecar.calibrate.beir import load
from sidecar.calibrate.candidates import DEPTH, candidates
from sidecar.calibrate.collection import Collection, CollectionError
from sidecar.calibrate.first_stage import Mode
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.calibrate.sweep_quality import sweep_quality
from sidecar.settings import Settings

FIRST_STAGES: tuple[Mode, ...] = ("bm25", "hybrid")
CROSS_ENCODER_DEPTH = 50
"""Candidates that a cross-encoder reads: it is by far the slowest, and gains nothing beyond."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A collection and, by first stage, the candidates of all its queries with the raw scores of every reranker."""

    collection: Collection
    lists: Mapping[Mode, tuple[JudgedList, ...]]
    strategies: Mapping[str, Strategy]


def folders(parent: Path) -> list[Path]:
    """The collections in ``parent``, by name. Raises CollectionError where there are none."""
    found = sorted(path.parent for path in parent.glob("*/corpus.jsonl"))
    if not found:
        raise CollectionError(f"{parent} has no sub-folder with a corpus.jsonl; name a folder of BEIR collections")
    return found


def measure(folder: Path, cache_dir: Path, say: Callable[[str], None]) -> Measured:
    """Candidates to a depth of `DEPTH`, of which cross-encoders read `CROSS_ENCODER_DEPTH`.

    ``say`` gets what is being done, and every note. Scores and vectors are kept in ``cache_dir``. Raises
    CollectionError, SweepError, PrivateSidecarError, and OSError where ``cache_dir`` can't be written.
    """
    collection = load(folder)

    def note(words: str) -> None:
        say(f"{collection.name}: {words}")

    found: list[JudgedList] = []
    for stage in FIRST_STAGES:
        note(f"first stage {stage}")
        lists = candidates(collection, stage, depth=DEPTH, cache_dir=cache_dir, progress=False, note=note)
        # One sweep scores both first stages: an identifier has to tell their lists apart.
        found += [replace(judged, query_id=f"{stage} {judged.query_id}") for judged in lists]
    settings = Settings()
    strategies = {name: Strategy(own.strategy) for name, own in settings.rerankers.items() if own.enabled}
    deep = {
        name: reranker
        for name, reranker in settings.rerankers.items()
        if name in strategies and strategies[name] is not Strategy.CROSS_ENCODER
    }

    def sweep(own: Settings, depth: int) -> list[JudgedList]:
        note(f"scoring {depth} candidates with {', '.join(own.rerankers)}")
        cut = [_cut(judged, depth) for judged in found]
        return sweep_quality(collection, cut, own, cache_dir=cache_dir, progress=False, note=note)

    # All models side by side, each in a process of its own, then the rest without the slow ones.
    scored = [sweep(settings, CROSS_ENCODER_DEPTH)]
    if deep:
        scored.append(sweep(settings.model_copy(update={"rerankers": deep}), DEPTH))
    joined = [_joined(*rows) for rows in zip(found, *scored, strict=True)]
    by_stage = {
        stage: tuple(
            replace(judged, query_id=judged.query_id.removeprefix(f"{stage} "))
            for judged in joined
            if judged.query_id.startswith(f"{stage} ")
        )
        for stage in FIRST_STAGES
    }
    # An LLM that nobody has configured is enabled, but scores nothing.
    scoring = {name: strategy for name, strategy in strategies.items() if all(name in one.raw for one in joined)}
    return Measured(collection, by_stage, scoring)


def _cut(judged: JudgedList, depth: int) -> JudgedList:
    return replace(
        judged,
        ids=judged.ids[:depth],
        lengths=judged.lengths[:depth],
        signals={name: values[:depth] for name, values in judged.signals.items()},
    )


def _joined(whole: JudgedList, *scored: JudgedList) -> JudgedList:
    """All raw scores at full length, NaN for what was not scored; of the last one that has any."""
    raw: dict[str, Floats] = {}
    for name, scores in ((name, scores) for part in scored for name, scores in part.raw.items()):
        raw[name] = np.full(len(whole.ids), np.nan)
        raw[name][: len(scores)] = scores
    return replace(whole, raw=raw)


def carried(lists: Sequence[JudgedList]) -> str:
    """The signals of the candidates, as the key of a profile."""
    return "+".join(sorted({name for judged in lists for name in judged.signals}))
