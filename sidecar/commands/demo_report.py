"""What the demo prints and writes: tables that grow row by row, a verdict in words, examples, `demo.json`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from millirank import Document
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from sidecar.calibrate.metrics import Interval
from sidecar.commands.demo_measure import Row, Search

_SHOWN_CHARACTERS = 100
_RISES_SHOWN = 2
_ARMS_SHOWN = 2
_SIGNIFICANCE = 0.05
# Header, width, alignment. The widths are fixed because rows are printed as they are measured.
_COLUMNS: tuple[tuple[str, int, JustifyMethod], ...] = (
    ("budget\nms", 6, "right"),
    ("\ndocuments", 9, "left"),
    ("ques-\ntions", 5, "right"),
    ("\nchosen arms at k, how often", 28, "left"),
    ("nDCG\n@10", 5, "right"),
    ("vs\nnone", 6, "right"),
    ("vs\nsignals", 7, "right"),
    ("MRR\n@10", 5, "right"),
    ("vs\nnone", 6, "right"),
    ("vs\nsignals", 7, "right"),
    ("p50/p95\nms", 11, "right"),
    ("in\nbudget", 6, "right"),
    ("cove-\nrage", 5, "right"),
    ("fall-\nbacks", 5, "right"),
)
WIDTH = sum(width + 1 for _, width, _ in _COLUMNS)


class GrowingTable:
    """A table on the console, one row at a time, so that the first figures are there within seconds."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        console.print(f"\n[bold]{title}[/bold]")
        self._print([header for header, _, _ in _COLUMNS], style="bold")
        console.print("─" * (WIDTH - 1), style="dim")

    def add(self, row: Row) -> None:
        """Print one row."""
        self._print(_cells(row))

    def _print(self, cells: Iterable[str], style: str | None = None) -> None:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        for _, width, justify in _COLUMNS:
            table.add_column(width=width, justify=justify, overflow="fold")
        table.add_row(*map(escape, cells), style=style)
        self._console.print(table)


def _cells(row: Row) -> list[str]:
    return [
        f"{row.budget_ms:g}",
        row.documents if row.documents == "cold" or row.warm_share == 1 else f"{row.warm_share:.0%} warm",
        str(row.questions),
        _arms(row.arms),
        f"{row.quality.ndcg10:.3f}",
        _signed(row.quality.ndcg10 - row.none.ndcg10),
        _signed(row.quality.ndcg10 - row.signals.ndcg10),
        f"{row.quality.mrr10:.3f}",
        _signed(row.quality.mrr10 - row.none.mrr10),
        _signed(row.quality.mrr10 - row.signals.mrr10),
        f"{row.p50_ms:.1f}/{row.p95_ms:.1f}",
        f"{row.in_budget_share:.0%}" if row.in_budget_share == 1 else f"{row.in_budget_share:.1%}",
        "–" if row.coverage is None else f"{row.coverage:.0%}",
        str(row.fallbacks),
    ]


def _arms(arms: Sequence[tuple[str, int, int]]) -> str:
    """The most frequent ones; `demo.json` has all."""
    shown = [f"{arm} @{k} ×{count}" if k else f"{arm} ×{count}" for arm, k, count in arms[:_ARMS_SHOWN]]
    others = sum(count for _, _, count in arms[_ARMS_SHOWN:])
    return ", ".join(shown + [f"others ×{others}"] * (others > 0))


def _signed(difference: float) -> str:
    return f"{difference:+.3f}" if round(difference, 3) else "0"


def verdict(interval: Interval, against: str, questions: int) -> str:
    """A paired bootstrap test in words."""
    direction = "above" if interval.mean >= 0 else "below"
    sure = (
        "more than chance would do"
        if interval.p < _SIGNIFICANCE
        else f"not to be told from chance with {questions} questions"
    )
    return (
        f"nDCG@10 is {abs(interval.mean):.3f} {direction} {against}; 95 % interval {interval.low:+.3f} to "
        f"{interval.high:+.3f}, p = {interval.p:.2g}: {sure}"
    )


@dataclass(frozen=True, slots=True)
class Move:
    """How one question's best-placed right answer moved; ranks from 1."""

    question: str
    answer: str
    before: int
    after: int

    @property
    def gain(self) -> float:
        """Change of the reciprocal rank: from 2 to 1 matters more than from 40 to 30."""
        return 1 / self.after - 1 / self.before


def moves(
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
) -> list[Move]:
    """One for each question that has a right answer among its candidates, in the order of ``before``."""
    found = []
    for question, order in before.items():
        right = [document for document in after[question] if qrels[question].get(document, 0) > 0]
        if right:
            was = min(order.index(document) for document in right)
            found.append(Move(question, right[0], was + 1, after[question].index(right[0]) + 1))
    return found


def examples(all_moves: Sequence[Move]) -> list[Move]:
    """By rule, not by hand: the two largest rises, and the largest fall if any; ties in the questions' order."""
    rises = sorted((move for move in all_moves if move.gain > 0), key=lambda move: -move.gain)
    falls = sorted((move for move in all_moves if move.gain < 0), key=lambda move: move.gain)
    return rises[:_RISES_SHOWN] + falls[:1]


def show_examples(
    console: Console,
    chosen: Sequence[Move],
    all_moves: Sequence[Move],
    searches: Mapping[str, Search],
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
) -> None:
    """Each move in words: what stood first before and after, and how the right answer begins."""
    up, down = (sum(move.gain * sign > 0 for move in all_moves) for sign in (1, -1))
    console.print(
        f"Of {len(all_moves)} questions with a right answer among the candidates, that answer moved up in {up}, down "
        f"in {down} and stayed in {len(all_moves) - up - down}. The two largest rises, and the largest fall if any:"
    )
    for move in chosen:
        search = searches[move.question]
        text = next(document.text for document in search.candidates if document.id == move.answer)
        shown = " ".join(text.split())[:_SHOWN_CHARACTERS]
        console.print(f"\n  [bold]“{escape(search.text)}”[/bold]")
        console.print(
            f"  {escape(move.answer)}: [bold]{move.before} → {move.after}[/bold]. First before: "
            f"{escape(before[move.question][0])}; first after: {escape(after[move.question][0])}."
        )
        console.print(f"  [dim]{escape(shown)}[/dim]")


def show_next_steps(console: Console, search: Search, candidates: Path, figures: Path) -> None:
    """Commands that work as they are printed."""
    command = Path(sys.executable).with_name("millirank")
    if command.is_relative_to(Path.cwd()):
        command = command.relative_to(Path.cwd())
    request = [search.text, "--documents", str(candidates), "--budget-ms"]
    console.print("\n[bold]Where to look next[/bold]")
    for label, words in (
        ("one request, traced", ["rerank", *request, "100", "--trace"]),
        ("why another budget decides otherwise", ["explain", *request, "20"]),
        ("a sidecar of your own", ["serve", "--print-config"]),
    ):
        console.print(f"  {label}:")
        # Not wrapped: a command that is broken in two can't be copied.
        console.print(f"    {shlex.join([str(command), *words])}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  all figures: {figures}", markup=False, highlight=False, soft_wrap=True)


def write_candidates(path: Path, candidates: Sequence[Document]) -> None:
    """One question's candidates, in the format of ``millirank rerank --documents``."""
    lines = (
        json.dumps({"id": document.id, "text": document.text, "signals": dict(document.signals)})
        for document in candidates
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def figures(rows: Sequence[Row], documents: int, questions: int, in_budget_share: float) -> dict[str, Any]:
    """The headline figures: BM25 candidates, warm documents. None where a budget was not among those measured."""
    warm = {row.budget_ms: row for row in rows if (row.candidates, row.documents) == ("bm25", "warm")}
    of_100, of_500 = warm.get(100.0), warm.get(500.0)
    some = next(iter(warm.values()))
    return {
        "documents": documents,
        "questions": questions,
        "ndcg10_none": some.none.ndcg10,
        "ndcg10_signals": some.signals.ndcg10,
        "ndcg10_100ms": of_100.quality.ndcg10 if of_100 else None,
        "ndcg10_500ms": of_500.quality.ndcg10 if of_500 else None,
        "in_budget_share": in_budget_share,
        "p50_ms_100ms": of_100.p50_ms if of_100 else None,
    }


def write_json(
    path: Path,
    headline: Mapping[str, Any],
    rows: Sequence[Row],
    tests: Mapping[str, Interval],
    moved: Sequence[Move],
) -> None:
    """Everything that was measured, for machines."""
    data = {
        "figures": headline,
        "rows": [asdict(row) for row in rows],
        "tests": {name: interval._asdict() for name, interval in tests.items()},
        "examples": [asdict(move) for move in moved],
    }
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
