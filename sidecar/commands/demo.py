"""``millirank demo``: real documents, real questions, a real sidecar; what reranking does at several budgets.

The collection is the standard library's own documentation, the questions were written before any ranking ran on
them, and the candidates are the first stage's top 50: by BM25 alone, and hybrid (BM25 and dense vectors of each
document's name and first sentence, rank fusion). Everything goes through the Python client over gRPC. How it is
measured:

- **none** is the first-stage order, **signals** the strategy SIGNALS of the service: fusion without a model.
- **cold**: no document has been seen before. A sidecar that keeps no vectors (and prepares none) answers these rows,
  so that every document is new in every request. Each fifth question is asked, the same ones at every budget.
- **warm**: every candidate has been read once by late interaction, as idle time does by itself. All questions are
  asked. Where a slow machine does not get that far within a minute, the row shows the share of warm candidates.
- The result cache is bypassed, and every pass adds another number of spaces behind the questions, so that no kept
  query vector answers either: what is warm are the documents, as for a new question on known documents.
- One request at a time; times are the caller's. The sidecar gets all CPUs for its model, since the demo only waits,
  and late interaction reads 64 tokens of a document instead of 128: reading two thousand of them is most of the
  demo's time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from millirank import Client, MillirankError
from rich.console import Console

from sidecar.calibrate import builtin, stdlib
from sidecar.calibrate.metrics import Interval, Qrels, ndcg_at_10, paired_bootstrap
from sidecar.calibrate.private_sidecar import PrivateSidecarError, connected, orderly_end, sidecar
from sidecar.commands import demo_collection as collection
from sidecar.commands import demo_report as report
from sidecar.commands import explain
from sidecar.commands.demo_measure import Search
from sidecar.commands.demo_passes import TITLES, Measured, Passes
from sidecar.engines.manifest import ModelError
from sidecar.engines.threads import usable_cpus

_DEFAULT_BUDGETS = (5.0, 20.0, 100.0, 500.0)
_SETTINGS = {
    "MILLIRANK_RERANKERS__MINILM_L6__THREADS": str(usable_cpus()),
    "MILLIRANK_RERANKERS__MINILM_L6__MAX_TOKENS": "64",
}
_KEEPS_NOTHING = _SETTINGS | {
    "MILLIRANK_RERANKERS__MINILM_L6__VECTOR_BYTES": "0",
    "MILLIRANK_RERANKERS__MINILM_L6__WARM_IDLE": "false",
}


class DemoError(Exception):
    """The demo can't go on. The message says what to do."""


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
        with orderly_end():
            demonstrate(
                builtin.searched(),
                stdlib.questions()[: arguments.questions or None],
                budgets=arguments.budgets,
                output=arguments.output,
                cache_dir=stdlib.default_cache_dir(),
                console=console,
            )
    except ModuleNotFoundError as error:
        sys.stderr.write(f"millirank demo: {error}; install it with: pip install 'millirank-server[demo]'\n")
        return 1
    except (DemoError, PrivateSidecarError, MillirankError, ModelError, OSError) as error:
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

    Raises DemoError when a question has no answer in the collection or no request is answered in time,
    PrivateSidecarError when a sidecar does not start, OSError when ``output`` can't be written.
    """
    # Here, so that `--help` needs no search libraries.
    from sidecar.calibrate.first_stage import FirstStage

    try:
        qrels = stdlib.qrels(documents, questions)
    except ValueError as error:
        raise DemoError(str(error)) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millirank-")))
        # Their models load while the first stage is built.
        forgetful = stack.enter_context(sidecar(folder, "cold", _KEEPS_NOTHING))
        remembering = stack.enter_context(sidecar(folder, "warm", _SETTINGS))
        first_stage = FirstStage.build(
            documents, dense_text=builtin.summary, dense_max_tokens=builtin.SUMMARY_MAX_TOKENS, cache_dir=cache_dir
        )
        searches = {mode: collection.search(first_stage, questions, mode) for mode in TITLES}
        sample = max(searches["bm25"], key=lambda search: len(search.candidates))
        cold, warm = (
            stack.enter_context(connected(child, sample.text, list(sample.candidates)))
            for child in (forgetful, remembering)
        )
        console.print(
            f"{len(documents):,} documents of the standard library, {len(questions)} questions, "
            f"{collection.CANDIDATES} candidates each. Rows with cold documents ask each fifth question."
        )

        def check() -> None:
            for child in (forgetful, remembering):
                child.check()

        passes = Passes(console, cold, warm, check, qrels, budgets)
        bm25, hybrid = (passes.measure(mode, searches[mode]) for mode in TITLES)
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


def _show_tests(console: Console, measured: Measured, qrels: Qrels, budget_ms: float) -> dict[str, Interval]:
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


def _show_examples(console: Console, measured: Measured, searches: Sequence[Search], qrels: Qrels) -> list[report.Move]:
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
