"""Candidates from a file, and what the commands print: texts of other people, shown as they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from millirank import (
    ConsideredArm,
    Decision,
    DecisionReason,
    Document,
    Mode,
    Outcome,
    Ranked,
    Ranking,
    Strategy,
    Verdict,
)
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.console import Console

from sidecar.commands import candidates, explain, rerank
from sidecar.commands.trace_tree import span_tree

# Square brackets are markup to rich: the first kind would vanish, the second raise.
BRACKETS = "a list[int] of [/INST] tokens"


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "candidates.jsonl"
    path.write_bytes(content)
    with pytest.raises(candidates.InputError) as caught:
        candidates.read(str(path))
    return str(caught.value)


def test_candidates_in_order_with_ids_and_signals(tmp_path: Path) -> None:
    """One JSON object a line, best first; blank lines are skipped; without an id it is the line's number."""
    path = tmp_path / "candidates.jsonl"
    path.write_text('{"id": 7, "text": "ä"}\n\n{"text": "b", "signals": {"bm25": 2}}\n', encoding="utf-8")
    assert candidates.read(str(path)) == [
        Document(id="7", text="ä"),
        Document(id="3", text="b", signals={"bm25": 2}),
    ]


def test_candidates_that_lie_in_an_index(tmp_path: Path) -> None:
    """With an indexed_ref the text may be left out, and may be there all the same."""
    path = tmp_path / "candidates.jsonl"
    path.write_text(
        '{"id": "a", "indexed_ref": {"collection": "docs", "id": "7"}}\n'
        '{"text": "b", "indexed_ref": {"collection": "docs", "id": 8}}\n'
    )
    assert candidates.read(str(path)) == [
        Document(id="a", indexed_ref=("docs", "7")),
        Document(id="2", text="b", indexed_ref=("docs", "8")),
    ]


def test_candidates_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """'-' is standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "a"}\n'))
    assert [document.text for document in candidates.read("-")] == ["a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        (b'["a"]', "line 1: write an object with a 'text' or an 'indexed_ref'"),
        (b'{"id": "1"}', "line 1: write an object with a 'text' or an 'indexed_ref'"),
        (b'{"text": 5}', "line 1: write an object with a 'text' or an 'indexed_ref'"),
        (b'{"text": "a", "score": 1}', "line 1: unknown key 'score'; known are id, text, signals and indexed_ref"),
        (b'{"text": "a", "signals": [1]}', "line 1: 'signals' must be an object of numbers"),
        (b'{"text": "a", "signals": {"bm25": "1"}}', "line 1: 'signals' must be an object of numbers"),
        (b'{"text": null, "indexed_ref": {"collection": "c", "id": "1"}}', "line 1: write an object with a 'text'"),
        (b'{"indexed_ref": ["c", "1"]}', "line 1: 'indexed_ref' must name collection and id"),
        (b'{"indexed_ref": {"collection": "c"}}', "line 1: 'indexed_ref' must name collection and id"),
        (b'{"indexed_ref": {"collection": "c", "id": true}}', "line 1: 'indexed_ref' must name collection and id"),
        (b'{"indexed_ref": {"collection": "", "id": "1"}}', "line 1: 'indexed_ref' must name collection and id"),
        (b'{"text": "\xff"}', "is not UTF-8"),
    ],
)
def test_candidates_that_can_not_be_read(tmp_path: Path, content: bytes, words: str) -> None:
    """The line, what is wrong with it, and what would be right."""
    assert words in refused(tmp_path, content)


def test_file_that_is_not_there() -> None:
    """The path and the system's reason."""
    with pytest.raises(candidates.InputError, match=r"/nowhere/x\.jsonl: No such file"):
        candidates.read("/nowhere/x.jsonl")


def shown(*parts: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def decided(detail: str) -> Decision:
    arm = ConsideredArm(Strategy.LLM, "llm[x]", 2, 1.0, 2.0, 0.1, 0, Verdict.OFF, detail)
    return Decision("d", Strategy.NONE, "", "", "default", "r", 0, 0, DecisionReason.NO_GAIN, (arm,), Mode.ON, 98.0)


def test_texts_are_shown_as_they_are() -> None:
    """Documents may hold anything: what looks like rich's markup is text."""
    console = Console(file=io.StringIO(), width=200)
    document = Document(id="[id]", text=BRACKETS)
    rerank._show(Ranking((Ranked(document, 0, 1.0, 2.0, True),), Outcome.RANKED, decision=decided("d")), console)
    assert isinstance(console.file, io.StringIO)
    table = console.file.getvalue()
    assert BRACKETS in table
    assert "[id]" in table


def test_reasons_are_shown_as_they_are() -> None:
    """Details hold names and paths of other people's choosing."""
    console = Console(file=io.StringIO(), width=200)
    explain.show(decided(f"no {BRACKETS}"), console)
    assert isinstance(console.file, io.StringIO)
    assert f"no {BRACKETS}" in console.file.getvalue()
    assert "llm[x]" in console.file.getvalue()


def test_span_tree_is_indented_by_parent() -> None:
    """Children stand under their parents, siblings by start; the trace's id is the root; considered arms get lines."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("server") as server:
        with tracer.start_as_current_span("route", attributes={"millirank.considered": ("none@0: chosen: [x]",)}):
            pass
        with tracer.start_as_current_span("score", attributes={"millirank.chunk.first": 0, "rpc.system": "grpc"}):
            pass
    lines = shown(span_tree(exporter.get_finished_spans())).splitlines()
    assert f"trace {server.get_span_context().trace_id:032x}" in lines[0]
    order = [next(i for i, line in enumerate(lines) if word in line) for word in ("server", "route", "none@0", "score")]
    assert order == sorted(order)
    indents = [lines[i].index(word) for i, word in zip(order, ("server", "route", "none@0", "score"), strict=True)]
    assert indents[0] < indents[1] == indents[3] < indents[2]
    assert "chunk.first=0" in "\n".join(lines)
    assert "rpc.system" not in "\n".join(lines)
    assert "none@0: chosen: [x]" in "\n".join(lines)


def test_span_whose_parent_is_elsewhere_is_a_root() -> None:
    """A sidecar's spans alone, without the caller's, still make a tree."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    elsewhere = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(elsewhere))
    provider.get_tracer("t").start_span("server", context).end()
    assert "server" in shown(span_tree(exporter.get_finished_spans()))
