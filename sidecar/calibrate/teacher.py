"""Labels from a reranker: a heavy one judges the candidates of real queries that nobody has judged.

That is the teacher's opinion, not relevance. It is good for choosing a cheaper reranker that agrees with it, and for
nothing that the teacher itself is part of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sidecar.calibrate.candidates import candidates
from sidecar.calibrate.collection import Collection, CollectionError, Document, Sources, checked
from sidecar.calibrate.first_stage import Mode
from sidecar.calibrate.lines import read_entries, string
from sidecar.calibrate.opinion import grades
from sidecar.calibrate.sweep_quality import sweep_quality
from sidecar.settings import Settings

DEPTH = 50
"""Candidates of a query that the teacher judges."""
_QUERY = '{"id": "q7", "text": "..."}'


def read_queries(path: Path) -> dict[str, str]:
    """Queries from JSON lines with `id` and `text`. Raises CollectionError."""
    entries = read_entries(path, "id", _QUERY)
    return {identifier: string(entry, "text", where, _QUERY) for where, identifier, entry in entries}


def taught(
    name: str,
    documents: Sequence[Document],
    queries: dict[str, str],
    settings: Settings,
    teacher: str,
    *,
    cache_dir: Path,
    first_stage: Mode = "hybrid",
    depth: int = DEPTH,
    limit_s: float | None = None,
    progress: bool = True,
    note: Callable[[str], None] = lambda words: None,
) -> Collection:
    """A collection whose judgements are the opinion of ``teacher``, one of the rerankers of ``settings``.

    It scores the first ``depth`` candidates of each query; `grades` says what comes of the scores. What is not among
    the candidates is not judged. Other arguments and errors are those of `candidates` and `sweep_quality`; raises
    CollectionError where there is no such reranker.
    """
    if teacher not in settings.rerankers:
        raise CollectionError(f"no reranker is named {teacher!r}; name one of {', '.join(settings.rerankers)}")
    alone = settings.model_copy(
        update={
            "rerankers": {
                other: own.model_copy(update={"enabled": other == teacher}) for other, own in settings.rerankers.items()
            }
        }
    )
    unjudged = Collection(name, tuple(documents), queries, {query: {} for query in queries}, "none", {})
    lists = candidates(unjudged, first_stage, depth=depth, cache_dir=cache_dir, progress=progress, note=note)
    scored = sweep_quality(unjudged, lists, alone, cache_dir=cache_dir, limit_s=limit_s, progress=progress, note=note)
    judged = [one for one in scored if one.ids]
    given = grades([one.raw[teacher] for one in judged])
    opinion = f"the opinion of {teacher}, not judgements by people"
    collection = checked(
        name,
        documents,
        {one.query_id: one.query for one in judged},
        {one.query_id: dict(zip(one.ids, own, strict=True)) for one, own in zip(judged, given, strict=True)},
        labels=f"{opinion}, on {depth} candidates of each query",
        sources=Sources("the documents", "the queries", f"the grades of {teacher}"),
        warnings=[f"the labels are {opinion}: figures say how well others agree with it, not how good they are"],
    )
    return replace(collection, judge=teacher)
