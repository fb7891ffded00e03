"""One run: environments, models, children, then every part, and what could not be had."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.engines.threads import usable_cpus
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Report, Section
from tests.bench.rerankers import cross_encoders, late_interaction, quality, rounds
from tests.bench.rerankers.child import Child, ChildError
from tests.bench.rerankers.contenders import (
    OWN_ENVIRONMENT,
    SENTENCE_TRANSFORMERS,
    SENTENCE_TRANSFORMERS_ONNX,
    Contender,
    contenders,
)
from tests.bench.rerankers.models import Models
from tests.bench.rerankers.pairs import Pairs
from tests.rivals.environment import Environment, SetUpError

FIGURES = (
    "x_st_torch_256",
    "x_infinity_best_256",
    "x_any_best_256",
    "ndcg_loss_int8",
    "rss_mb",
    "late_interaction_100_ms",
)
CROSS_ENCODERS = "cross-encoders"
QUALITY = "quality"
LATE_INTERACTION = "late-interaction"
PARTS = (CROSS_ENCODERS, QUALITY, LATE_INTERACTION)

_LOAD_TIMEOUT_S = 400.0
# Tokens and candidates of the request that batch sizes are tried out with: enough to tell all at once from a few.
_TUNING = (256, 10)
_QUICK_QUERIES = 10
_MOST_QUERIES = 250  # the standard library has 60
_LATE_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants; see the command's help."""

    parts: tuple[str, ...]
    rounds: int
    minutes: float
    quick: bool
    without: tuple[str, ...]
    collection: Path | None


Show = Callable[[Section], None]


def measure(choice: Choice, folder: Path, steps: Steps, show: Show) -> Report:
    """Runs the parts that are chosen; ``folder`` takes the logs, ``show`` each section as soon as it is there.

    A rival that can't be had is named in the report's ``missing``, and the others are measured. Raises BenchError when
    this project's own engine or the collection can't be had.
    """
    began = time.monotonic()
    run = _Run(choice, folder, steps)
    sections: dict[str, Section] = {}
    for found in (run.cross_encoders(), run.late_interaction()):
        for name, section in found:
            sections[name] = section
            show(section)
    left_out = {part: "--only" for part in PARTS if part not in choice.parts}
    details = {"contenders": run.how}
    return Report(FIGURES, sections, {**left_out, **run.missing}, time.monotonic() - began, details)


class _Run:
    """What the parts of one run share."""

    def __init__(self, choice: Choice, folder: Path, steps: Steps) -> None:
        self._choice = choice
        self._folder = folder
        self._steps = steps
        self._threads = usable_cpus()
        self._models = Models.of_this_checkout()
        self._pairs: Pairs | None = None
        self.missing: dict[str, str] = {}
        # How each contender was run, by its name.
        self.how: dict[str, Mapping[str, object]] = {}
        self._contenders = tuple(
            one
            for one in contenders(self._models, self._threads)
            if one.is_ours or not any(word in one.name for word in choice.without)
        )
        self._reasons = self._environments()
        self._make_models()

    def cross_encoders(self) -> Iterator[tuple[str, Section]]:
        """The sections of the parts that run cross-encoders."""
        wanted = {CROSS_ENCODERS, QUALITY} & set(self._choice.parts)
        if not wanted:
            return
        own = [one for one in self._contenders if one.is_ours]
        with contextlib.ExitStack() as stack:
            children, sizes = self._children(stack, self._contenders if CROSS_ENCODERS in wanted else own)
            if QUALITY in wanted:
                task = quality.load(self._choice.collection, _QUICK_QUERIES if self._choice.quick else _MOST_QUERIES)
                by_precision = {one.precision: children[one.name] for one in own}
                yield QUALITY, quality.measure(task, by_precision, self._steps)
            if CROSS_ENCODERS in wanted:
                cells = rounds.plan(self._choice.rounds, quick=self._choice.quick)
                found = rounds.run(cells, children, self._supply(), self._choice.minutes * 60, self._steps)
                facts = [
                    cross_encoders.Facts(
                        one,
                        children[one.name].ask({"operation": "peak"}, _LOAD_TIMEOUT_S)["mb"],
                        one.environment.size_mb(),
                        sizes[one.name],
                    )
                    for one in self._contenders
                    if one.name in children
                ]
                yield from cross_encoders.sections(found, facts).items()

    def late_interaction(self) -> Iterator[tuple[str, Section]]:
        """The section of late interaction."""
        if LATE_INTERACTION not in self._choice.parts:
            return
        count = 1 if self._choice.quick else _LATE_ROUNDS
        yield (
            LATE_INTERACTION,
            late_interaction.measure(
                self._models.colbert, self._reasons, self._supply(), self._folder, self._steps, count
            ),
        )

    def _environments(self) -> dict[Environment, str | None]:
        """Makes those that are needed. For each, why it is not there; None if it is. Raises BenchError for our own."""
        needed = dict.fromkeys(one.environment for one in self._contenders)
        # Whatever is left out, the rivals' ONNX files are made with one, and late interaction is measured in the other.
        needed |= dict.fromkeys((SENTENCE_TRANSFORMERS, SENTENCE_TRANSFORMERS_ONNX))
        self._steps.begin("environments", len(needed))
        reasons: dict[Environment, str | None] = {}
        for environment in needed:
            self._steps.now(environment.name)
            try:
                environment.set_up(self._tick(environment.name))
                reasons[environment] = None
            except SetUpError as error:
                if environment == OWN_ENVIRONMENT:
                    raise BenchError(str(error)) from None
                reasons[environment] = str(error)
            self._steps.done()
        return reasons

    def _make_models(self) -> None:
        self._steps.begin("models", 4)
        self._steps.now("teaching the weights")
        self._models.make_checkpoint(self._folder, self._tick("teaching the weights"))
        self._steps.done()
        self._models.make_colbert(self._folder, self._tick("ColBERT checkpoint"))
        self._steps.done()
        self._models.make_own(self._threads, self._folder, self._tick("millirank models export"))
        self._steps.done()
        if self._reasons[SENTENCE_TRANSFORMERS_ONNX] is None:
            try:
                python = SENTENCE_TRANSFORMERS_ONNX.python
                self._models.make_onnx(python, self._folder, self._tick("exporting for the rivals"))
            except ChildError as error:
                self.missing["rivals on ONNX Runtime"] = str(error)
        self._steps.done()

    def _children(
        self, stack: contextlib.ExitStack, wanted: tuple[Contender, ...] | list[Contender]
    ) -> tuple[dict[str, Child], dict[str, int]]:
        """A loaded child of everybody who can be had, and the batch size of each (0: none to choose)."""
        children: dict[str, Child] = {}
        sizes: dict[str, int] = {}
        tuning = self._supply().request(*_TUNING)
        request = {"operation": "tune", "query": tuning.query, "texts": tuning.texts}
        self._steps.begin("loading", len(wanted))
        for number, one in enumerate(wanted):
            self._steps.now(one.name)
            tick = self._tick(one.name)
            reason = self._reasons[one.environment]
            try:
                if reason is not None:
                    raise ChildError(reason)
                log = self._folder / f"{number}.log"
                child = stack.enter_context(Child(one.name, one.environment.python, one.module, log, tick))
                child.ask(one.arguments, _LOAD_TIMEOUT_S)
                sizes[one.name] = int(child.ask(request, _LOAD_TIMEOUT_S)["batch_size"]) if one.tunes else 0
                # Everybody has run once before anything counts.
                child.ask({**request, "operation": "score"}, _LOAD_TIMEOUT_S)
            except ChildError as error:
                if one.is_ours:
                    raise
                self.missing[one.name] = str(error)
                sizes.pop(one.name, None)
            else:
                children[one.name] = child
                self.how[one.name] = {
                    "precision": one.precision,
                    "environment": one.environment.name,
                    "threads": self._threads,
                    "batch_size": sizes[one.name],
                }
            self._steps.done()
        return children, sizes

    def _supply(self) -> Pairs:
        if self._pairs is None:
            self._pairs = Pairs()
        return self._pairs

    def _tick(self, what: str) -> Callable[[], None]:
        return lambda: self._steps.now(what)
