"""Finished spans as a tree for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from rich.markup import escape
from rich.tree import Tree

# Said by the tree itself, or of no use to a person.
_HIDDEN = frozenset({"rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code", "millirank.considered"})


def span_tree(spans: Sequence[ReadableSpan]) -> Tree:
    """One tree for each trace: name, start relative to the root, length, attributes."""
    children: dict[int | None, list[ReadableSpan]] = defaultdict(list)
    known = {span.context.span_id for span in spans if span.context}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent else None
        children[parent if parent in known else None].append(span)
    root = Tree("trace")
    for span in children[None]:
        if span.context:
            root.label = f"trace {span.context.trace_id:032x}"
        _add(root, span, children, span.start_time or 0)
    return root


def _add(tree: Tree, span: ReadableSpan, children: dict[int | None, list[ReadableSpan]], zero: int) -> None:
    start_ms = ((span.start_time or 0) - zero) / 1e6
    length_ms = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    branch = tree.add(f"[bold]{escape(span.name)}[/bold]  +{start_ms:.2f} ms, {length_ms:.2f} ms")
    attributes = span.attributes or {}
    shown = [f"{key.removeprefix('millirank.')}={value!s}" for key, value in attributes.items() if key not in _HIDDEN]
    if shown:
        branch.add(f"[dim]{escape(', '.join(shown))}[/dim]")
    considered = attributes.get("millirank.considered", ())
    if isinstance(considered, Sequence):
        for line in considered:
            branch.add(f"[dim]{escape(str(line))}[/dim]")
    if span.context:
        for child in children[span.context.span_id]:
            _add(branch, child, children, zero)
