"""The steps of ``millirank calibrate``: collection, candidates, quality, latency, profile, report."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from router.arms import Strategy
from router.profile import Profile, parse
from sidecar.calibrate import pooled
from sidecar.calibrate.candidates import candidates
from sidecar.calibrate.collection import FEWEST_FOR_A_BOUND, Collection, CollectionError
from sidecar.calibrate.first_stage import Fusion, Mode
from sidecar.calibrate.fit import Fitted, fit_profile
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.report.build import Service, build
from sidecar.calibrate.report.readout import ReadOut, Source
from sidecar.calibrate.sweep_latency import sweep_latency
from sidecar.calibrate.sweep_quality import QUALITY_SHARE, sweep_quality
from sidecar.engines.threads import usable_cpus
from sidecar.profiles import revision_of
from sidecar.reranker_settings import CascadeSettings
from sidecar.settings import Settings

_FOR_THE_REPORT_S = 20.0
"""Fitting, drawing and writing take about so long: kept back from the time for measuring."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. ``first_stage``: our own, or TREC files by signal. ``sample`` 0: all queries. ``end`` is in
    seconds of `time.monotonic`."""

    corpus: str
    first_stage: Mode | Mapping[str, Path]
    fusion: Fusion
    ks: tuple[int, ...]
    sample: int
    end: float
    requests: int


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The read-out, the profile that it is about, and the profile's file."""

    readout: ReadOut
    profile: Profile
    profile_file: bytes


class Notes:
    """What a reader has to know: said at once on the console, and once more in the report."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: list[str] = []

    def add(self, words: str) -> None:
        """Say it, once."""
        if words not in self.said:
            self.said.append(words)
            self.console.print(f"[yellow]Note:[/yellow] {escape(words)}", highlight=False)


def run(collection: Collection, settings: Settings, plan: Plan, cache_dir: Path, notes: Notes) -> Calibrated:
    """All steps on ``collection``, until about ``plan.end``.

    Raises CollectionError or ValueError where the input allows no calibration, SweepError or PrivateSidecarError where
    nothing could be measured, OSError where ``cache_dir`` can't be written.
    """
    chosen = collection.sample(plan.sample) if plan.sample else collection
    for warning in chosen.warnings:
        notes.add(warning)
    _check(len(chosen.queries), "judge more")
    found = candidates(
        chosen, plan.first_stage, depth=plan.ks[-1], fusion=plan.fusion, cache_dir=cache_dir, note=notes.add
    )
    left_s = max(0.0, plan.end - time.monotonic() - _FOR_THE_REPORT_S)
    lists = sweep_quality(chosen, found, settings, cache_dir=cache_dir, limit_s=QUALITY_SHARE * left_s, note=notes.add)
    _check(sum(bool(judged.ids) for judged in lists), "allow more --minutes, or look at the first stage")
    left_s = max(0.0, plan.end - time.monotonic() - _FOR_THE_REPORT_S)
    samples = sweep_latency(
        chosen,
        lists,
        settings,
        cache_dir=cache_dir,
        ks=plan.ks,
        requests=plan.requests,
        limit_s=left_s,
        note=notes.add,
    )
    timed = {sample.reranker for sample in samples}
    strategies = {name: Strategy(settings.rerankers[name].strategy) for name in lists[0].raw if name in timed}
    # What this collection has taught itself must not count twice.
    others = pooled.read().without(collection.documents_digest)
    with notes.console.status("Fitting the profile"):

        def fit(part: Sequence[JudgedList]) -> tuple[bytes, Profile, Fitted]:
            data, fitted = fit_profile(
                # A query without candidates says nothing about how to order them.
                [judged for judged in part if judged.ids],
                samples,
                corpus=plan.corpus,
                strategies=strategies,
                ks=plan.ks,
                pooled=others,
            )
            raw = json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"
            return raw, parse(data, revision_of(raw)), fitted

        raw, profile, fitted = fit(lists)
        readout = build(
            lists,
            samples,
            profile,
            lambda half: fit(half)[1],
            ks=plan.ks,
            source=Source(
                collection=collection.name,
                documents=len(collection.documents),
                queries=len(collection.queries),
                first_stage=_words(plan),
                labels=collection.labels,
                machine=machine(),
                made=datetime.datetime.now(datetime.UTC).date().isoformat(),
                warnings=tuple(notes.said),
            ),
            service=service(settings),
            traits=fitted.traits,
            requests=plan.requests,
        )
    return Calibrated(readout, profile, raw)


def _check(queries: int, fix: str) -> None:
    """No profile at all rather than one that chance has made."""
    if queries < FEWEST_FOR_A_BOUND:
        raise CollectionError(
            f"{queries} queries are too few for a profile: at least {FEWEST_FOR_A_BOUND} have to be judged, scored and "
            f"have candidates; {fix}"
        )


def service(settings: Settings) -> Service:
    """What the recommendations depend on."""
    return Service(
        default_ms=settings.budget.default_ms,
        reserve_ms=settings.budget.reserve_ms,
        max_micro_usd=settings.budget.max_cost_micro_usd,
        strategies={name: reranker.strategy for name, reranker in settings.rerankers.items()},
        promotion_caps={name: cap for name in settings.rerankers if (cap := _promotion_cap(settings, name))},
    )


def _promotion_cap(settings: Settings, name: str) -> int:
    """Places that a reranker may lift a candidate (0: any number); a cascade is held by the stricter of its stages."""
    own = settings.rerankers[name]
    if isinstance(own, CascadeSettings):
        stages = [stage for stage in (own.first, own.second) if stage in settings.rerankers]
        return min(filter(None, (_promotion_cap(settings, stage) for stage in stages)), default=0)
    return int(getattr(own, "promotion_cap", 0))


def machine() -> str:
    """Processor and usable CPUs, as far as the system tells."""
    name = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:  # not Linux
        pass
    return f"{name}, {usable_cpus()} CPUs usable"


def _words(plan: Plan) -> str:
    if isinstance(plan.first_stage, str):
        return f"hybrid ({plan.fusion})" if plan.first_stage == "hybrid" else plan.first_stage
    return "runs " + ", ".join(f"{signal}={path.name}" for signal, path in plan.first_stage.items())
