"""Everybody gets the same requests, one after the other, again and again: what that took, and what they answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.progress import Steps
from tests.bench.rerankers.child import Child
from tests.bench.rerankers.pairs import MIX, Pairs, Request

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape of request. ``tokens`` of a pair may be `MIX`; ``rounds`` at most are run."""

    tokens: int
    candidates: int
    rounds: int

    @property
    def name(self) -> str:
        """For people, and for the report's sections."""
        length = "real texts" if self.tokens == MIX else f"{self.tokens} tokens"
        return f"{self.candidates} candidates, {length}"


@dataclass(slots=True)
class Series:
    """What one cell brought: one entry a round; ``ms`` and ``scores`` by contender."""

    cell: Cell
    requests: list[Request] = field(default_factory=list)
    ms: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[list[float]]] = field(default_factory=dict)

    def pairs_per_s(self, name: str) -> list[float]:
        """Of one contender."""
        return [self.cell.candidates / ms * 1e3 for ms in self.ms[name]]


def plan(rounds: int, *, quick: bool) -> tuple[Cell, ...]:
    """The cells in the order in which they are worth their time; the large ones twice at most."""
    if quick:
        return (Cell(256, 25, 1), Cell(MIX, 25, 1), Cell(128, 10, 1))
    few = min(rounds, 2)
    return (
        Cell(256, 25, rounds),
        Cell(MIX, 25, rounds),
        Cell(128, 25, rounds),
        Cell(256, 10, rounds),
        Cell(128, 10, rounds),
        Cell(128, 100, few),
        Cell(256, 100, few),
    )


def run(
    cells: Sequence[Cell], children: Mapping[str, Child], pairs: Pairs, seconds: float, steps: Steps
) -> tuple[Series, ...]:
    """Every cell once, then further rounds while they fit into ``seconds``.

    Raises ChildError when a contender does not answer.
    """
    found = tuple(Series(cell, ms={n: [] for n in children}, scores={n: [] for n in children}) for cell in cells)
    began = time.monotonic()
    steps.begin("cross-encoders", sum(cell.rounds for cell in cells))
    for number in range(max(cell.rounds for cell in cells)):
        for series in found:
            if number >= series.cell.rounds:
                continue
            if number and time.monotonic() - began + _last_s(series) > seconds:
                steps.done()
                continue
            _round(series, children, pairs, steps)
            steps.done()
    return found


def _last_s(series: Series) -> float:
    return sum(taken[-1] for taken in series.ms.values()) / 1e3


def _round(series: Series, children: Mapping[str, Child], pairs: Pairs, steps: Steps) -> None:
    cell, number = series.cell, len(series.requests)
    request = pairs.request(cell.tokens, cell.candidates)
    series.requests.append(request)
    names = list(children)
    # Nobody always runs after the same neighbour, whose heat and cache it inherits: another one begins every round,
    # and every other round goes backwards.
    shift = number % len(names)
    order = names[shift:] + names[:shift]
    for name in order if number % 2 == 0 else reversed(order):
        steps.now(f"{cell.name}, round {number + 1}: {name}")
        answer = children[name].ask({"operation": "score", "query": request.query, "texts": request.texts}, _TIMEOUT_S)
        series.ms[name].append(answer["ms"])
        series.scores[name].append(answer["scores"])
