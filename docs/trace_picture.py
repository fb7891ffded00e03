"""Draws a trace as Jaeger has it, for who has a Jaeger without web pages: an SVG picture on standard output.

    python docs/trace_picture.py > trace.svg                      the newest trace of service `millirank`
    python docs/trace_picture.py --trace 4bf92f... > trace.svg

Everything that it draws comes from Jaeger's query API (`/api/traces`); it knows nothing that Jaeger does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

_WIDTH, _LEFT, _ROW, _LINE = 1440, 470, 30, 17
_COLOURS = ("#2f66c8", "#0e8a7a", "#b07d12", "#7d4fd1")
# What a person looks for first; everything else is a click away in Jaeger itself.
_SHOWN = (
    "millirank.reranker", "millirank.reason", "millirank.planned_k", "millirank.scored_k", "millirank.budget_ms",
    "millirank.predicted_p50_ms", "millirank.predicted_p95_ms", "millirank.expected_gain", "millirank.score_ms",
    "millirank.chunk.first", "millirank.chunk.documents", "millirank.compute_ms", "millirank.queue_ms",
    "millirank.completeness", "millirank.degradation", "gen_ai.request.model", "error.type",
)  # fmt: skip
_STYLE = (
    "text{font:13px system-ui,'DejaVu Sans',sans-serif;fill:#1d2329}.soft{fill:#626b75;font-size:12px}"
    ".name{font-weight:600}.end{text-anchor:end}.grid{stroke:#dfddd6}.title{font-size:19px;font-weight:600}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jaeger", default="http://127.0.0.1:16686", metavar="URL", help="default: %(default)s")
    parser.add_argument("--service", default="millirank", help="whose newest trace is drawn; default: %(default)s")
    parser.add_argument("--trace", default="", metavar="ID", help="draw this one instead")
    arguments = parser.parse_args()
    asked = f"/{arguments.trace}" if arguments.trace else f"?service={arguments.service}&limit=20"
    try:
        with urllib.request.urlopen(f"{arguments.jaeger}/api/traces{asked}", timeout=10) as answer:  # noqa: S310
            traces = json.load(answer)["data"]
    except urllib.error.URLError as error:
        sys.stderr.write(f"{arguments.jaeger} can't be asked ({error}); start one with deploy/jaeger/run.sh\n")
        return 1
    if not traces:
        sys.stderr.write("no such trace yet; call the sidecar first\n")
        return 1
    newest = max(traces, key=lambda trace: max(span["startTime"] for span in trace["spans"]))
    sys.stdout.write(picture(newest))
    return 0


def picture(trace: dict[str, Any]) -> str:
    """The spans one below the other, children below their parents, each with its time and its first attributes."""
    spans = list(_in_order(trace["spans"]))
    services = sorted({_service(trace, span) for _, span in spans})
    colours = {service: _COLOURS[place % len(_COLOURS)] for place, service in enumerate(services)}
    zero = min(span["startTime"] for _, span in spans)
    length = max(1, max(span["startTime"] + span["duration"] for _, span in spans) - zero)

    def x(microseconds: float) -> float:
        return _LEFT + (microseconds - zero) / length * (_WIDTH - _LEFT - 110)

    parts: list[str] = []
    y = 92
    for depth, span in spans:
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        colour = colours[_service(trace, span)]
        left, wide = x(span["startTime"]), max(2.0, x(span["startTime"] + span["duration"]) - x(span["startTime"]))
        parts += [
            f'<circle cx="{24 + 16 * depth}" cy="{y - 4}" r="5" fill="{colour}"/>',
            _text(36 + 16 * depth, y, span["operationName"].removeprefix("millirank.v1."), "name"),
            f'<rect x="{left:.1f}" y="{y - 13}" width="{wide:.1f}" height="16" rx="3" fill="{colour}"/>',
            _text(left + wide + 8, y, f"{span['duration'] / 1000:.2f} ms", "soft"),
        ]
        known = [f"{key.removeprefix('millirank.')}={_plain(tags[key])}" for key in _SHOWN if key in tags]
        for line in [*_wrapped(known), *_considered(tags)]:
            y += _LINE
            parts.append(_text(36 + 16 * depth, y, line, "soft"))
        y += _ROW
    grid = [
        f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="66" y2="{y - 20}"/>'
        + _text(place, 60, f"{length * share / 1000:.1f} ms", "soft")
        for share, place in ((share, x(zero + length * share)) for share in (0, 0.25, 0.5, 0.75, 1))
    ]
    legend = "".join(
        f'<circle cx="{_LEFT + 150 * place}" cy="28" r="5" fill="{colours[service]}"/>'
        + _text(_LEFT + 12 + 150 * place, 33, service)
        for place, service in enumerate(services)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{_text(18, 33, 'trace ' + trace['traceID'][:16] + '…', 'title')}{legend}"
        f"{''.join(grid)}{''.join(parts)}</svg>\n"
    )


def _in_order(spans: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(depth, span), parents before children, siblings by time."""
    ids = {span["spanID"] for span in spans}
    children = defaultdict(list)
    for span in sorted(spans, key=lambda each: each["startTime"]):
        parent = next((each["spanID"] for each in span["references"] if each["spanID"] in ids), "")
        children[parent].append(span)

    def below(parent: str, depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for span in children[parent]:
            yield depth, span
            yield from below(span["spanID"], depth + 1)

    return below("", 0)


def _service(trace: dict[str, Any], span: dict[str, Any]) -> str:
    return str(trace["processes"][span["processID"]]["serviceName"])


def _considered(tags: dict[str, Any]) -> list[str]:
    """Every arm that was looked at; Jaeger keeps a list as JSON text."""
    try:
        return [f"  {line}" for line in json.loads(tags.get("millirank.considered", "[]"))]
    except json.JSONDecodeError:
        return [tags["millirank.considered"]]


def _wrapped(words: list[str], characters: int = 180) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + len(word) > characters:
            yield line
            line = ""
        line = f"{line}, {word}" if line else word
    if line:
        yield line


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(words)}</text>'


if __name__ == "__main__":
    sys.exit(main())
