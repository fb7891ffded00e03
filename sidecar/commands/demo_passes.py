"""The demo's tables: which passes are made over the questions, on which sidecar, and the bars meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millirank import Client, RerankerNotFoundError, RerankerOffError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sidecar.calibrate.metrics import Qrels
from sidecar.commands.demo_measure import (
    Call,
    Row,
    Search,
    ask,
    first_stage_order,
    orders,
    summarise,
    warm_up,
)
from sidecar.commands.demo_report import GrowingTable

if TYPE_CHECKING:
    from sidecar.calibrate.first_stage import Mode

TITLES: Mapping[Mode, str] = {
    "bm25": "BM25 candidates (signal: bm25)",
    "hybrid": "Hybrid candidates (signals: bm25, dense)",
}
_COLD_EVERY = 5
_SIGNALS_BUDGET_MS = 500.0
# Bounds the demo on a slow machine; what is not warm by then shows in the rows.
_WARM_UP_LIMIT_S = 45.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One table's rows and the orders behind it: none, signals, and the largest budget with warm documents."""

    rows: list[Row]
    none: Mapping[str, Sequence[str]]
    signals: Mapping[str, Sequence[str]]
    best: Mapping[str, Sequence[str]]

    @property
    def in_budget_share(self) -> float:
        """Of all requests behind the rows."""
        return sum(row.in_budget_share * row.questions for row in self.rows) / sum(row.questions for row in self.rows)


class Passes:
    """Measures the tables, each pass with queries of its own. ``check`` raises when a sidecar has ended."""

    def __init__(
        self,
        console: Console,
        cold: Client,
        warm: Client,
        check: Callable[[], None],
        qrels: Qrels,
        budgets: Sequence[float],
    ) -> None:
        self._console = console
        self._cold = cold
        self._warm = warm
        self._check = check
        self._qrels = qrels
        self._budgets = budgets
        self._passes = 0

    def measure(self, mode: Mode, searches: Sequence[Search]) -> Measured:
        """Print and return one table."""
        table = GrowingTable(self._console, TITLES[mode])
        none = first_stage_order(searches)
        signals = orders(self._ask(self._warm, searches, _SIGNALS_BUDGET_MS, "signals", strategy="signals"))
        rows: list[Row] = []

        def measure_rows(
            documents: str, warm_share: float, client: Client, asked: Sequence[Search]
        ) -> Mapping[str, Sequence[str]]:
            """One row for each budget; gives the orders of the last."""
            run: Mapping[str, Sequence[str]] = {}
            for budget_ms in self._budgets:
                calls = self._ask(client, asked, budget_ms, f"{documents} documents, {budget_ms:g} ms")
                run = orders(calls)
                rows.append(summarise(mode, documents, warm_share, budget_ms, calls, self._qrels, none, signals))
                table.add(rows[-1])
            return run

        measure_rows("cold", 0.0, self._cold, searches[::_COLD_EVERY])
        best = measure_rows("warm", self._warm_up(searches), self._warm, searches)
        return Measured(rows, none, signals, best)

    def _warm_up(self, searches: Sequence[Search]) -> float:
        """The share of candidates that are warm afterwards."""
        if not self._console.is_terminal:  # where no bar can be drawn
            self._console.print(
                "(late interaction reads the candidates, so that their documents are warm)", style="dim"
            )
        read: frozenset[str] = frozenset()
        with (
            self._progress("late interaction reads the candidates", len(searches)) as advance,
            contextlib.suppress(RerankerOffError, RerankerNotFoundError),  # then the share is 0
        ):
            read = warm_up(self._warm, searches, _WARM_UP_LIMIT_S, advance)
        candidates = [document.id for search in searches for document in search.candidates]
        return sum(candidate in read for candidate in candidates) / len(candidates)

    def _ask(
        self, client: Client, searches: Sequence[Search], budget_ms: float, label: str, **options: str
    ) -> list[Call]:
        self._passes += 1
        with self._progress(label, len(searches)) as advance:
            calls = ask(client, searches, budget_ms, self._passes, advance, **options)
        self._check()
        return calls

    @contextlib.contextmanager
    def _progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar that draws only when told, between two requests: no thread of ours runs while we measure."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=not self._console.is_terminal,
        ) as bar:
            task = bar.add_task(label, total=total)
            bar.refresh()
            yield lambda: bar.update(task, advance=1, refresh=True)
