"""What is calibrated on: documents, queries and who judged which document how relevant for which query."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

FEWEST_FOR_A_BOUND = 20
"""Queries below which an interval says next to nothing."""
_MOST_UNKNOWN_SHARE = 0.5
_NAMED = 3  # examples in a message


class CollectionError(ValueError):
    """A collection that can't be used. The message names the file, the line where there is one, and the fix."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document. ``text`` is what is searched and sent to rerankers, the title included.

    ``summary`` is what the dense first stage reads instead of ``text``, '' for the text itself.
    """

    id: str
    text: str
    title: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Collection:
    """Documents, queries (id -> text) and judgements; every query has at least one relevant document.

    ``qrels`` are query id -> document id -> grade, 0 for judged and not relevant. ``ignored`` are query id -> documents
    that are left out of every ranking of that query. ``labels`` says in words where the judgements come from, ``judge``
    is the reranker that made them, '' where none did. ``warnings`` are what a reader of any figure has to know.
    """

    name: str
    documents: tuple[Document, ...]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    labels: str
    ignored: Mapping[str, frozenset[str]]
    warnings: tuple[str, ...] = ()
    judge: str = ""

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """Document id -> text."""
        return {document.id: document.text for document in self.documents}

    @cached_property
    def documents_digest(self) -> str:
        """Changes with any document, and with their order."""
        digest = hashlib.sha256()
        for document in self.documents:
            for part in (document.id, document.text, document.summary):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
                digest.update(encoded)
        return digest.hexdigest()[:32]

    def sample(self, queries: int, seed: int = 0) -> Collection:
        """The same documents with ``queries`` queries drawn at random; all of them where there are no more."""
        if queries < 1:
            raise CollectionError(f"a sample of {queries} queries: take at least 1")
        if queries >= len(self.queries):
            return self
        drawn = set(random.Random(seed).sample(sorted(self.queries), queries))
        return replace(
            self,
            queries={query: text for query, text in self.queries.items() if query in drawn},
            qrels={query: grades for query, grades in self.qrels.items() if query in drawn},
            ignored={query: left_out for query, left_out in self.ignored.items() if query in drawn},
            warnings=(*(w for w in self.warnings if w not in _too_few(len(self.queries))), *_too_few(queries)),
        )


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the parts of a collection come from, for messages: file names, or words."""

    documents: str
    queries: str
    qrels: str
    ignored: str = ""


def checked(
    name: str,
    documents: Iterable[Document],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    labels: str,
    sources: Sources,
    ignored: Mapping[str, Iterable[str]] | None = None,
    warnings: Iterable[str] = (),
) -> Collection:
    """A collection of parts that fit together.

    Documents without text, judgements of unknown documents or queries, and queries without a relevant document are
    left out, each with a warning that counts them. Raises CollectionError where nothing is left to measure, most
    judgements name unknown ids, or a grade is negative.
    """
    said = list(warnings)
    kept = [document for document in documents if document.text.strip()]
    known = {document.id for document in kept}
    if not kept:
        raise CollectionError(f"{sources.documents} holds no document with a text; write at least one")
    judged = {query: dict(grades) for query, grades in qrels.items()}
    for query, grades in judged.items():
        for document, grade in grades.items():
            if grade < 0:
                raise CollectionError(
                    f"{sources.qrels}: grade {grade} of query {query!r}, document {document!r} is negative; "
                    "write 0 for not relevant, and larger numbers for more relevant"
                )
    judged = _known_queries(judged, queries, sources, said)
    judged = _known_documents(judged, known, sources, said)
    left_out = _ignored(ignored or {}, known, queries, sources, said)
    judged = {
        query: {document: grade for document, grade in grades.items() if document not in left_out.get(query, ())}
        for query, grades in judged.items()
    }
    usable = {query: text for query, text in queries.items() if text.strip() and any(judged.get(query, {}).values())}
    if not usable:
        raise CollectionError(
            f"{sources.qrels}: no query has a relevant document; write a grade of 1 or more for at least one"
        )
    if len(usable) < len(queries):
        said.append(
            f"{len(queries) - len(usable)} of {len(queries)} queries have no text or no relevant document: left out"
        )
    said += _too_few(len(usable))
    return Collection(
        name=name,
        documents=tuple(kept),
        queries=usable,
        qrels={query: judged[query] for query in usable},
        labels=labels,
        ignored={query: left_out[query] for query in usable if left_out.get(query)},
        warnings=tuple(said),
    )


def _known_queries(
    qrels: dict[str, dict[str, int]], queries: Mapping[str, str], sources: Sources, said: list[str]
) -> dict[str, dict[str, int]]:
    unknown = [query for query in qrels if query not in queries]
    if not unknown:
        return qrels
    words = f"{len(unknown)} of the {len(qrels)} query ids in {sources.qrels} are not in {sources.queries}"
    words += f" ({_examples(unknown)})"
    if len(unknown) > _MOST_UNKNOWN_SHARE * len(qrels):
        raise CollectionError(
            f"{words}; make both name queries alike (some copies of a collection number the queries 1, 2, 3, ... "
            "in one file only)"
        )
    said.append(f"{words}: left out")
    return {query: grades for query, grades in qrels.items() if query in queries}


def _known_documents(
    qrels: dict[str, dict[str, int]], known: set[str], sources: Sources, said: list[str]
) -> dict[str, dict[str, int]]:
    named = {document for grades in qrels.values() for document in grades}
    unknown = sorted(named - known)
    if not unknown:
        return qrels
    words = f"{len(unknown)} of the {len(named)} document ids in {sources.qrels} have no text in {sources.documents}"
    words += f" ({_examples(unknown)})"
    if len(unknown) > _MOST_UNKNOWN_SHARE * len(named):
        raise CollectionError(f"{words}; make both name documents alike, or give the whole corpus")
    said.append(f"{words}: left out")
    return {query: {d: grade for d, grade in grades.items() if d in known} for query, grades in qrels.items()}


def _ignored(
    pairs: Mapping[str, Iterable[str]], known: set[str], queries: Mapping[str, str], sources: Sources, said: list[str]
) -> dict[str, frozenset[str]]:
    left_out = {query: frozenset(documents) for query, documents in pairs.items()}
    strange = sum(
        query not in queries or document not in known for query, documents in left_out.items() for document in documents
    )
    if strange:
        total = sum(map(len, left_out.values()))
        said.append(f"{strange} of the {total} pairs in {sources.ignored} name an unknown query or document: no effect")
    return left_out


def _too_few(queries: int) -> list[str]:
    if queries >= FEWEST_FOR_A_BOUND:
        return []
    count = "1 query" if queries == 1 else f"{queries} queries"
    return [f"only {count}: intervals mean little below {FEWEST_FOR_A_BOUND}"]


def _examples(ids: list[str]) -> str:
    named = ", ".join(repr(each) for each in ids[:_NAMED])
    return f"{named}, ..." if len(ids) > _NAMED else named
