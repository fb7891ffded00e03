"""``millirank demo``: real documents, real questions, a real sidecar; what reranking does at several budgets.

The collection is the standard library's own documentation, the questions were written before any ranking ran on
them, and the candidates are the first stage's top 50: by BM25 alone, and hybrid (BM25 and dense vectors, rank
fusion). Everything goes through the Python client over gRPC. How it is measured:

- **none** is the first-stage order, **signals** the strategy SIGNALS of the service: fusion without a model.
- **cold**: no document has been seen before. A sidecar that keeps no vectors (and prepares none) answers these rows,
  so that every document is new in every request. Each fifth question is asked, the same ones at every budget.
- **warm**: every candidate has been read once by late interaction, as idle time does by itself. All questions are
  asked.
- The result cache is bypassed, and every pass adds another number of spaces behind the questions, so that no kept
  query vector answers either: what is warm are the documents, as for a new question on known documents.
- One request at a time; times are the caller's. The sidecar gets all CPUs for its model, since the demo only waits.
- The vectors of the dense first stage read 32 tokens of each document, its name, signature and how the first sentence
  begins: what two cores can encode in a minute. Candidates are reranked on their whole text.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from millirank import Client, Document, MillirankError, RerankerNotFoundError, RerankerOffError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sidecar.calibrate import stdlib
from sidecar.calibrate.metrics import Interval, Qrels, ndcg_at_10, paired_bootstrap
from sidecar.commands import demo_report as report
from sidecar.commands import explain
from sidecar.commands.demo_measure import (
    Call,
    Row,
    Search,
    ask,
    first_stage_order,
    in_budget,
    orders,
    summarise,
    warm_up,
)
from sidecar.commands.demo_sidecar import DemoError, connected, sidecar
from sidecar.engines.manifest import ModelError
from sidecar.engines.threads import usable_cpus

if TYPE_CHECKING:
    from sidecar.calibrate.first_stage import FirstStage, Mode

_DEFAULT_BUDGETS = (5.0, 20.0, 100.0, 500.0)
_CANDIDATES = 50
_COLD_EVERY = 5
_DENSE_MAX_TOKENS = 32
# Bounds the demo on a slow machine; what is not warm by then shows in the rows.
_WARM_UP_LIMIT_S = 45.0
_SIGNALS_BUDGET_MS = 500.0
_TITLES: Mapping[Mode, str] = {
    "bm25": "BM25 candidates (signal: bm25)",
    "hybrid": "Hybrid candidates (signals: bm25, dense)",
}
# What every sidecar of the demo is set to, beside its own socket.
_ALL_CPUS = {"MILLIRANK_RERANKERS__MINILM_L6__THREADS": str(usable_cpus())}
_KEEPS_NOTHING = {
    "MILLIRANK_RERANKERS__MINILM_L6__VECTOR_BYTES": "0",
    "MILLIRANK_RERANKERS__MINILM_L6__WARM_IDLE": "false",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--questions", type=_positive, default=0, metavar="N", help="ask only the first N (default: all)"
    )
    parser.add_argument(
        "--budgets",
        type=_budgets,
        default=_DEFAULT_BUDGETS,
        metavar="MS,MS,...",
        help="latency budgets in ms (default: 5,20,100,500)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/demo.json"),
        metavar="FILE",
        help="where the figures go (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 with figures, good or bad ones; 1 when the sidecar did not answer or something is missing."""
    console = Console()
    if console.width < report.WIDTH:
        console = Console(width=report.WIDTH)  # rather lines that the terminal breaks than figures cut in two
    try:
        with _orderly_end():
            demonstrate(
                stdlib.documents(),
                stdlib.questions()[: arguments.questions or None],
                budgets=arguments.budgets,
                output=arguments.output,
                cache_dir=stdlib._default_cache_dir(),
                console=console,
            )
    except ModuleNotFoundError as error:
        sys.stderr.write(f"millirank demo: {error}; install it with: pip install 'millirank-server[calibrate]'\n")
        return 1
    except (DemoError, MillirankError, ModelError, OSError) as error:
        sys.stderr.write(f"millirank demo: {error}\n")
        return 1
    return 0


def demonstrate(
    documents: Sequence[stdlib.StdlibDocument],
    questions: Sequence[stdlib.Question],
    *,
    budgets: Sequence[float],
    output: Path,
    cache_dir: Path,
    console: Console,
) -> None:
    """The whole demo on a collection with questions; ``budgets`` ascending, in ms.

    Raises ValueError for a question without an answer in the collection, DemoError when the sidecar does not answer,
    OSError when ``output`` can't be written.
    """
    # Here, so that `--help` needs no search libraries.
    from sidecar.calibrate.first_stage import FirstStage

    qrels = stdlib.qrels(documents, questions)
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millirank-")))
        # Their models load while the first stage is built.
        forgetful = stack.enter_context(sidecar(folder, "cold", _ALL_CPUS | _KEEPS_NOTHING))
        remembering = stack.enter_context(sidecar(folder, "warm", _ALL_CPUS))
        first_stage = FirstStage.build(documents, dense_max_tokens=_DENSE_MAX_TOKENS, cache_dir=cache_dir)
        searches = {mode: _search(first_stage, questions, mode) for mode in _TITLES}
        sample = next(search for search in searches["bm25"] if search.candidates)
        cold, warm = (
            stack.enter_context(connected(child, sample.text, list(sample.candidates)))
            for child in (forgetful, remembering)
        )
        console.print(
            f"{len(documents):,} documents of the standard library, {len(questions)} questions, {_CANDIDATES} "
            "candidates each, one request at a time. Rows with cold documents ask each fifth question."
        )
        passes = _Passes(console, cold, warm, qrels, budgets)
        bm25, hybrid = (passes.measure(mode, searches[mode]) for mode in _TITLES)
        for child in (forgetful, remembering):
            child.check()
        rows = bm25.rows + hybrid.rows
        if all(row.fallbacks == row.questions for row in rows):
            raise DemoError("the sidecar did not answer a single request in time; try larger --budgets")
        tests = _show_tests(console, bm25, qrels, budgets[-1])
        moved = _show_examples(console, bm25, searches["bm25"], qrels)
        example = next((s for s in searches["bm25"] if moved and s.id == moved[0].question), sample)
        _show_reasons(console, cold, example, sorted({budgets[min(1, len(budgets) - 1)], budgets[-1]}))

    headline = report.figures(bm25.rows, len(documents), len(questions), bm25.in_budget_share)
    report.write_json(output, headline, rows, tests, moved)
    candidates = output.with_name("demo-candidates.jsonl")
    report.write_candidates(candidates, example.candidates)
    report.show_next_steps(console, example, candidates, output)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One table's rows and the orders behind it: none, signals, and the largest budget with warm documents."""

    rows: list[Row]
    none: Mapping[str, Sequence[str]]
    signals: Mapping[str, Sequence[str]]
    best: Mapping[str, Sequence[str]]
    in_budget_share: float


class _Passes:
    """Measures the tables, each pass with queries of its own."""

    def __init__(self, console: Console, cold: Client, warm: Client, qrels: Qrels, budgets: Sequence[float]) -> None:
        self._console = console
        self._cold = cold
        self._warm = warm
        self._qrels = qrels
        self._budgets = budgets
        self._passes = 0

    def measure(self, mode: Mode, searches: Sequence[Search]) -> _Measured:
        """Print and return one table."""
        table = report.GrowingTable(self._console, _TITLES[mode])
        none = first_stage_order(searches)
        signals = orders(self._ask(self._warm, searches, _SIGNALS_BUDGET_MS, "signals", strategy="signals"))
        rows: list[Row] = []
        calls: list[Call] = []
        in_time = 0

        def measure_rows(documents: str, client: Client, asked: Sequence[Search]) -> None:
            nonlocal calls, in_time
            for budget_ms in self._budgets:
                calls = self._ask(client, asked, budget_ms, f"{documents} documents, {budget_ms:g} ms")
                in_time += in_budget([call.elapsed_ms for call in calls], budget_ms)
                rows.append(summarise(mode, documents, budget_ms, calls, self._qrels, none, signals))
                table.add(rows[-1])

        measure_rows("cold", self._cold, searches[::_COLD_EVERY])
        if not self._console.is_terminal:  # where no bar can be drawn
            self._console.print(
                "(late interaction reads the candidates, so that their documents are warm)", style="dim"
            )
        with (
            self._progress("late interaction reads the candidates", len(searches)) as advance,
            contextlib.suppress(RerankerOffError, RerankerNotFoundError),  # then the rows do not have it either
        ):
            warm_up(self._warm, searches, _WARM_UP_LIMIT_S, advance)
        measure_rows("warm", self._warm, searches)
        return _Measured(rows, none, signals, orders(calls), in_time / sum(row.questions for row in rows))

    def _ask(
        self, client: Client, searches: Sequence[Search], budget_ms: float, label: str, **options: str
    ) -> list[Call]:
        self._passes += 1
        with self._progress(label, len(searches)) as advance:
            return ask(client, searches, budget_ms, self._passes, advance, **options)

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


def _search(first_stage: FirstStage, questions: Sequence[stdlib.Question], mode: Mode) -> list[Search]:
    return [
        Search(
            question.id,
            question.text,
            tuple(
                Document(hit.id, hit.text, hit.signals) for hit in first_stage.search(question.text, _CANDIDATES, mode)
            ),
        )
        for question in questions
    ]


def _show_tests(console: Console, measured: _Measured, qrels: Qrels, budget_ms: float) -> dict[str, Interval]:
    """The largest budget, warm documents, BM25 candidates, against both baselines; in words."""
    best = list(ndcg_at_10(qrels, measured.best).values())
    tests = {
        name: paired_bootstrap(best, list(ndcg_at_10(qrels, baseline).values()))
        for name, baseline in (("none", measured.none), ("signals", measured.signals))
    }
    console.print(f"\n[bold]Is {budget_ms:g} ms on warm documents better?[/bold] Paired bootstrap, BM25 candidates:")
    for name, interval in tests.items():
        console.print(f"  {report.verdict(interval, name, len(best))}", highlight=False)
    return tests


def _show_examples(
    console: Console, measured: _Measured, searches: Sequence[Search], qrels: Qrels
) -> list[report.Move]:
    all_moves = report.moves(measured.none, measured.best, qrels)
    chosen = report.examples(all_moves)
    console.print("\n[bold]Before and after[/bold], BM25 candidates")
    by_id = {search.id: search for search in searches}
    report.show_examples(console, chosen, all_moves, by_id, measured.none, measured.best)
    return chosen


def _show_reasons(console: Console, client: Client, search: Search, budgets: Sequence[float]) -> None:
    """The router's reasons for one request."""
    console.print("\n[bold]The router's reasons[/bold], for the first example with cold documents")
    for budget_ms in budgets:
        console.print(f"\nbudget {budget_ms:g} ms:")
        explain.show(client.explain(search.text, search.candidates, budget_ms=budget_ms), console)


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP unwind the stack, so that no child process is left, and end with 128 + number."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and it has its own
        return
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except BaseException:
        if received:
            # Whatever it has become on its way: interrupted in its import, a C library raises an ImportError.
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of questions from 1")
    return int(text)


def _budgets(text: str) -> tuple[float, ...]:
    try:
        budgets = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write milliseconds, such as 5,20,100") from None
    if not all(0 < budget <= 60_000 for budget in budgets):
        raise argparse.ArgumentTypeError(f"{text!r}: budgets are from above 0 to 60000 ms")
    return budgets
