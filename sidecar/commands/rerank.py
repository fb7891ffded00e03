"""``millirank rerank``: reorder candidates from a file and show the order, the decision and, if asked, the trace."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from millirank import Document, MillirankError, Ranking
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.profile import ProfileError
from sidecar.commands import candidates
from sidecar.commands.trace_tree import span_tree
from sidecar.listeners import ListenError
from sidecar.settings import SettingsError
from sidecar.telemetry import TelemetryError

_SHOWN_CHARACTERS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    candidates.add_arguments(parser)
    parser.add_argument("--top-n", type=int, default=10, help="results to show; 0 is all (default: %(default)s)")
    parser.add_argument("--trace", action="store_true", help="print the span tree")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 with an ordering, 1 when the sidecar refused the request, 2 when the input can't be used."""
    try:
        documents = candidates.read(arguments.documents)
        return asyncio.run(_run(arguments, documents))
    except (candidates.InputError, SettingsError, ProfileError, TelemetryError, ListenError) as error:
        sys.stderr.write(f"millirank rerank: {error}\n")
        return 2
    except MillirankError as error:
        sys.stderr.write(f"millirank rerank: {error}\n")
        return 1


async def _run(arguments: argparse.Namespace, documents: list[Document]) -> int:
    spans = InMemorySpanExporter()
    processor = SimpleSpanProcessor(spans) if arguments.trace else None
    async with candidates.connected(arguments, processor) as client:
        ranking = await client.rerank(
            arguments.query,
            documents,
            **candidates.request_options(arguments),
            top_n=arguments.top_n,
        )
    console = Console()
    if arguments.json:
        sys.stdout.write(json.dumps(_as_json(ranking), ensure_ascii=False) + "\n")
    else:
        _show(ranking, console)
    if arguments.trace:
        Console(stderr=arguments.json).print(span_tree(spans.get_finished_spans()))
        if arguments.target:
            Console(stderr=True).print("The sidecar's own spans are where it exports them to (OTEL_* variables).")
    return 0


def _show(ranking: Ranking[Document], console: Console) -> None:
    table = Table("rank", "was", "score", "model", "id", "text")
    for rank, result in enumerate(ranking, 1):
        table.add_row(
            str(rank),
            str(result.index + 1),
            "" if result.score is None else f"{result.score:.3f}",
            "" if result.raw_score is None else f"{result.raw_score:.3f}",
            # Other people's texts: square brackets in them are no markup.
            escape(result.document.id),
            escape(" ".join(result.document.text.split())[:_SHOWN_CHARACTERS]),
        )
    console.print(table)
    console.print(_summary(ranking), markup=False)


def _summary(ranking: Ranking[Document]) -> str:
    decision = ranking.decision
    if decision is None:
        return f"{ranking.outcome}: answered by the client itself ({', '.join(map(str, ranking.reasons))})"
    arm = decision.reranker or decision.strategy
    words = f"{ranking.outcome}: {arm}, {decision.scored_k} of {decision.planned_k} planned candidates scored"
    timing = ranking.timing
    if timing is not None:
        words += f", {timing.total_ms:.1f} ms of {decision.spendable_ms:.1f} ms; {decision.reason}"
    for degradation in ranking.degradations:
        words += f"\n{degradation.reason}: {degradation.detail}"
    return words


def _as_json(ranking: Ranking[Document]) -> dict[str, object]:
    decision = ranking.decision
    return {
        "outcome": ranking.outcome,
        "results": [
            {"id": item.document.id, "index": item.index, "score": item.score, "raw_score": item.raw_score}
            for item in ranking
        ],
        "strategy": decision.strategy if decision else None,
        "reranker": decision.reranker if decision else None,
        "reason": decision.reason if decision else None,
        "planned_k": decision.planned_k if decision else 0,
        "scored_k": decision.scored_k if decision else 0,
    }
