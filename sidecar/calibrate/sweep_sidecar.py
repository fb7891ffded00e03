"""A sidecar that answers a sweep: the user's rerankers in a process of its own, and which of them can be measured."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from millirank import Client, Document, Ranking, Reason, RerankerNotFoundError, RerankerOffError, Strategy

from sidecar.calibrate.collection import Collection
from sidecar.calibrate.private_sidecar import SidecarProcess, reachable, sidecar
from sidecar.calibrate.records import JudgedList
from sidecar.reranker_settings import MIB, CascadeSettings, OnnxLateInteraction, RerankerSettings, TorchLateInteraction
from sidecar.settings import Limits, Settings, to_toml

UNLIMITED_MS = 1_800_000.0
"""A budget that nothing is left out for: half an hour."""
_READY_TIMEOUT_S = 900.0  # as long as a large checkpoint may take to load
_POLL_S = 0.05
_EXPLAIN_MS = 60_000.0
_TRIED = 2  # documents in the first request to every reranker
_WIRE_BYTES = 64 * MIB
_VECTOR_FILE_BYTES = 2048 * MIB
_DECISIONS_BYTES = 1024 * MIB  # some KB each: more than any sweep makes


@dataclass(frozen=True, slots=True)
class Arm:
    """A reranker that can score the collection.

    ``revision`` changes with whatever changes its scores; of a list it takes ``most_documents`` at most.
    """

    name: str
    strategy: Strategy
    revision: str
    most_documents: int


@dataclass(frozen=True, slots=True)
class SweepSidecar:
    """A sidecar that serves, the client of it, the arms that it offers and the file of its decisions."""

    process: SidecarProcess
    client: Client
    arms: tuple[Arm, ...]
    decisions: Path


class Texts:
    """The documents of a collection as requests carry them."""

    def __init__(self, collection: Collection, indexed_as: str = "") -> None:
        """``indexed_as``: the documents are in an index of that name as well, under their ids."""
        self._texts = collection.texts
        self._indexed_as = indexed_as

    def of(self, judged: JudgedList) -> list[Document]:
        """The candidates of one query, best first, with their signals."""
        return [
            Document(
                id=identifier,
                text=self._texts[identifier],
                signals=_finite({name: float(values[place]) for name, values in judged.signals.items()}),
                indexed_ref=(self._indexed_as, identifier) if self._indexed_as else None,
            )
            for place, identifier in enumerate(judged.ids)
        ]


def _finite(signals: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in signals.items() if math.isfinite(value)}


def keeps_vectors(configured: RerankerSettings) -> bool:
    """Whether a reranker keeps what it has read of documents."""
    return isinstance(configured, OnnxLateInteraction | TorchLateInteraction)


def faster_when_warm(settings: Settings, name: str) -> bool:
    """Whether a reranker, or a stage of it, is faster with documents that it has seen before."""
    own = settings.rerankers[name]
    stages = (own.first, own.second) if isinstance(own, CascadeSettings) else (name,)
    return any(keeps_vectors(settings.rerankers[stage]) for stage in stages)


def remembering(settings: Settings, cache_dir: Path) -> Settings:
    """Late interaction keeps vectors in files of ``cache_dir``, too, and prepares none by itself.

    Raises OSError where ``cache_dir`` can't be written.
    """
    folder = cache_dir / "vectors"
    folder.mkdir(parents=True, exist_ok=True)

    def changed(name: str, configured: RerankerSettings) -> RerankerSettings:
        if not keeps_vectors(configured):
            return configured
        kept = {
            "vector_file": str(folder / f"{name}.sqlite"),
            "vector_file_bytes": _VECTOR_FILE_BYTES,
            "warm_idle": False,
        }
        return configured.model_copy(update=kept)

    return _with_rerankers(settings, {name: changed(name, own) for name, own in settings.rerankers.items()})


def forgetful(settings: Settings) -> Settings:
    """Only the rerankers that keep vectors, and they keep none: to them every document is new; and the cascades that
    have one of them for a stage, with their other stage."""
    nothing_kept = {"vector_file": "", "vector_bytes": 0, "warm_idle": False}
    needed = {name for name in settings.rerankers if faster_when_warm(settings, name)}
    for own in [settings.rerankers[name] for name in needed]:
        if isinstance(own, CascadeSettings) and own.enabled:
            needed |= {own.first, own.second}

    def changed(name: str, own: RerankerSettings) -> RerankerSettings:
        if name not in needed:
            return own.model_copy(update={"enabled": False})
        return own.model_copy(update=nothing_kept) if keeps_vectors(own) else own

    return _with_rerankers(settings, {name: changed(name, own) for name, own in settings.rerankers.items()})


def _with_rerankers(settings: Settings, rerankers: Mapping[str, RerankerSettings]) -> Settings:
    return settings.model_copy(update={"rerankers": dict(rerankers)})


@contextlib.contextmanager
def sweep_sidecar(
    settings: Settings,
    folder: Path,
    name: str,
    example: JudgedList,
    texts: Texts,
    longest_query: int,
    note: Callable[[str], None],
) -> Iterator[SweepSidecar]:
    """A private sidecar with the rerankers of ``settings``, once their models are loaded.

    Of the other settings only those that a score or its price depends on are taken: a sweep must not need the ports
    of a sidecar that runs here. ``example`` is a list with candidates. Rerankers that can't score it are said to
    ``note``. Raises PrivateSidecarError where it does not start.
    """
    own = Settings(
        log_level=settings.log_level,
        limits=Limits(
            wire_bytes=_WIRE_BYTES,
            document_characters=settings.limits.document_characters,
            # A judged query that is longer than what production takes is still worth measuring.
            query_characters=max(longest_query, settings.limits.query_characters),
            documents=max(len(example.ids), settings.limits.documents),
        ),
        budget=settings.budget,
        cache=settings.cache,
        rerankers=settings.rerankers,
    )
    file = folder / f"{name}.toml"
    file.write_text(to_toml(own), encoding="utf-8")
    documents = texts.of(example)
    decisions = folder / f"{name}.decisions"
    set_up = {
        "MILLIRANK_CONFIG": str(file),
        "MILLIRANK_DECISION_LOG__FILE": str(decisions),
        "MILLIRANK_DECISION_LOG__MAX_BYTES": str(_DECISIONS_BYTES),
    }
    with sidecar(folder, name, set_up) as process, reachable(process) as client:
        names = [each for each, configured in own.rerankers.items() if configured.enabled]
        arms = [_arm(process, client, each, example.query, documents, note) for each in names]
        yield SweepSidecar(process, client, tuple(arm for arm in arms if arm is not None), decisions)


def _arm(
    process: SidecarProcess,
    client: Client,
    name: str,
    query: str,
    documents: list[Document],
    note: Callable[[str], None],
) -> Arm | None:
    """The arm once it has loaded its model, or None where it is off or can't score these documents."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        process.check()
        try:
            ranking = ask(client, query, documents[:_TRIED], name)
        except (RerankerOffError, RerankerNotFoundError) as error:
            note(f"{name} is not measured: {error}")
            return None
        if Reason.NOT_READY not in ranking.reasons:
            break
        if time.monotonic() > deadline:
            note(f"{name} is not measured: not ready after {_READY_TIMEOUT_S:.0f} s ({ranking.degradations[0].detail})")
            return None
        time.sleep(_POLL_S)
    decision = client.explain(
        query,
        documents,
        reranker=name,
        rerank_k=len(documents),
        budget_ms=UNLIMITED_MS,
        timeout_ms=_EXPLAIN_MS,
    )
    return Arm(name, decision.strategy, decision.model_revision, decision.planned_k)


def ask(client: Client, query: str, documents: Sequence[Document], reranker: str, k: int = 0) -> Ranking[Document]:
    """``reranker`` forced on the first ``k`` documents (0: all), with all the time that it needs and without caches."""
    return client.rerank(
        query,
        documents,
        budget_ms=UNLIMITED_MS,
        reranker=reranker,
        rerank_k=k or len(documents),
        use_cache=False,
    )
