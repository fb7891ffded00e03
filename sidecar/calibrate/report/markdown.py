"""The read-out as Markdown: the verdict and three tables."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.calibrate.report import tables
from sidecar.calibrate.report.readout import ReadOut
from sidecar.calibrate.report.tables import Table


def render(readout: ReadOut) -> str:
    """A page of its own."""
    source = readout.source
    lines = [
        f"# Calibration of {_plain(source.collection)}",
        "",
        f"**{readout.verdict.headline}** {' '.join(readout.verdict.reasons)}",
        "",
    ]
    for table in (tables.headline(readout), tables.budgets(readout), tables.arms(readout)):
        lines += [f"## {table.title}", "", *_table(table), "", *(f"- {note}" for note in table.notes), ""]
    lines += ["## About", "", *(f"- {_plain(fact)}" for fact in facts(readout)), ""]
    return "\n".join(lines)


def facts(readout: ReadOut) -> Iterator[str]:
    """What was measured on what, one sentence each, notes last."""
    source, context = readout.source, readout.context
    yield (
        f"{len(readout.query_ids)} of {source.queries} queries, {source.documents:,} documents; labels: "
        f"{source.labels}; first stage: {source.first_stage}; signals: {readout.signals or 'none'}."
    )
    yield (
        f"Context recall@50 {context.recall50:.3f}, context precision@5 {context.precision5:.3f} (at best "
        f"{context.best_precision5:.3f}). nDCG@10 in perfect order of the candidates: "
        + ", ".join(f"{value:.3f} of the first {k}" for k, value in context.ceiling)
        + "."
    )
    yield "Intervals: 95 %, bootstrap over queries, paired against no rerank."
    yield f"Machine: {source.machine}; {source.made}. Profile: corpus {readout.corpus}, {readout.profile_revision}."
    for warning in source.warnings:
        yield f"Note: {warning}"


def _table(table: Table) -> Iterator[str]:
    yield _row(table.header)
    yield _row(tuple("--:" if numeric else "---" for numeric in table.numeric))
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Names come from users: nothing in them may end a cell or a line."""
    return " ".join(text.split()).replace("|", "\\|")
