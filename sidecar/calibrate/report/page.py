"""The read-out as one HTML file that needs nothing else: styles and plots are inside, no script, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from sidecar.calibrate.report import tables
from sidecar.calibrate.report.markdown import facts
from sidecar.calibrate.report.readout import ReadOut
from sidecar.calibrate.report.tables import Table

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .4rem solid #0072B2; background: #f2f7fb; padding: .75rem 1rem; }
.verdict p { margin: 0; font-weight: 600; font-size: 1.1rem; }
.verdict ul { margin: .5rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { min-width: 9rem; }
td.number { white-space: nowrap; }
img { width: 100%; max-width: 52rem; min-width: 32rem; height: auto; }
.note, .facts { color: #444; font-size: .85rem; }
summary { cursor: pointer; margin-top: 1.5rem; font-weight: 600; }
code { background: #f4f4f4; padding: .1rem .3rem; }
"""


def render(readout: ReadOut, curve: Path, pareto: Path) -> str:
    """The page; ``curve`` and ``pareto`` are the PNG files of `plots.draw`."""
    verdict = readout.verdict
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Calibration of {escape(readout.source.collection)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>Calibration of {escape(readout.source.collection)}</h1>",
            f'<div class="verdict"><p>{escape(verdict.headline)}</p><ul>',
            *(f"<li>{escape(reason)}</li>" for reason in verdict.reasons),
            "</ul></div>",
            *_section(tables.headline(readout)),
            "<h2>How many candidates</h2>",
            _image(curve, "nDCG@10 of every arm over the number of candidates scored"),
            *_section(tables.arms(readout)),
            "<h2>Quality against latency</h2>",
            _image(pareto, "nDCG@10 of every arm against the latency that it adds"),
            *_section(tables.budgets(readout)),
            f"<details><summary>{escape(tables.grid(readout).title)}</summary>",
            *_table(tables.grid(readout)),
            "</details>",
            "<h2>About</h2>",
            '<ul class="facts">',
            *(f"<li>{escape(fact)}</li>" for fact in facts(readout)),
            "</ul></body></html>\n",
        ]
    )


def _section(table: Table) -> Iterator[str]:
    yield f"<h2>{escape(table.title)}</h2>"
    yield from _table(table)
    yield from (f'<p class="note">{escape(note)}</p>' for note in table.notes)


def _table(table: Table) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(_cells("th", table.header, table.numeric)) + "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(_cells("td", row, table.numeric)) + "</tr>"
    yield "</tbody></table></div>"


def _cells(tag: str, cells: Sequence[str], numeric: Sequence[bool]) -> Iterator[str]:
    for cell, is_number in zip(cells, numeric, strict=True):
        attribute = ' class="number"' if is_number else ""
        yield f"<{tag}{attribute}>{escape(cell)}</{tag}>"


def _image(path: Path, alternative: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<div class="wide"><img alt="{escape(alternative)}" src="data:image/png;base64,{data}"></div>'
