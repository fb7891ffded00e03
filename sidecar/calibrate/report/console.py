"""The end of a calibration on the console: verdict, tables, what changed, and how to use the profile."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from sidecar.calibrate.report import tables
from sidecar.calibrate.report.files import Files
from sidecar.calibrate.report.gate import Change
from sidecar.calibrate.report.readout import ReadOut
from sidecar.calibrate.report.tables import Table
from sidecar.profiles import DEFAULT_CORPUS

WIDTH = 140


def summary(console: Console, readout: ReadOut) -> None:
    """Both tables and the verdict with its reasons, notes last."""
    for table in (tables.headline(readout), tables.budgets(readout)):
        console.print(f"\n[bold]{escape(table.title)}[/bold]")
        console.print(_rich(table))
    console.print(f"\n[bold]{escape(readout.verdict.headline)}[/bold]")
    for reason in readout.verdict.reasons:
        console.print(f"  {escape(reason)}", highlight=False)
    for warning in readout.source.warnings:
        console.print(f"  [yellow]Note:[/yellow] {escape(warning)}", highlight=False)


def changes(console: Console, found: Sequence[Change], earlier: str) -> None:
    """What differs from an earlier calibration, regressions marked."""
    console.print(f"\n[bold]Against {escape(earlier)}[/bold]")
    if not found:
        console.print("  no difference beyond chance")
    for change in found:
        mark = "[red]REGRESSION[/red] " if change.regression else ""
        console.print(f"  {mark}{escape(change.what)}: {escape(change.words)}", highlight=False)


def next_steps(console: Console, readout: ReadOut, files: Files) -> None:
    """Where the files are, and the lines that put the profile to use; not wrapped, so that they can be copied."""
    console.print("\n[bold]To use it[/bold], in the sidecar's configuration (TOML):")
    # A JSON string is a TOML string.
    _copyable(console, f"  profiles = [{json.dumps(str(files.profile.resolve()), ensure_ascii=False)}]")
    if readout.corpus == DEFAULT_CORPUS:
        console.print("It replaces the built-in profile for every request that names no corpus of its own.")
    else:
        _copyable(
            console, f"Requests name it: corpus={readout.corpus!r}. For all requests calibrate with --corpus default."
        )
    _copyable(console, f"Report: {files.html}, {files.markdown.name} and {files.json.name} beside it")


def _copyable(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for place, (header, numeric) in enumerate(zip(table.header, table.numeric, strict=True)):
        # Headers may break, figures may not.
        width = max(len(word) for cell in (header.split(), [row[place] for row in table.rows]) for word in cell)
        broken = "\n".join(textwrap.wrap(header, width))
        shown.add_column(broken, justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown
