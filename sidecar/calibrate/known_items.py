"""No judgements at all: queries made of the user's own documents, each of which asks for one document (known items).

The query is the title of a document, or its first sentence, and what it asks for is the rest of that document. That
measures less than real questions do: somebody who looks for a document rarely knows how it begins, and others may
answer as well. It tells rerankers apart all the same, on the user's own language and lengths.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sidecar.calibrate.beir import titled
from sidecar.calibrate.collection import Collection, CollectionError, Document, Sources, checked
from sidecar.calibrate.lines import read_entries, string

QUERIES = 200
_DOCUMENT = '{"id": "7", "title": "...", "text": "..."}'
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n")
_FEWEST_WORDS = 3  # of a query: "Introduction" asks for nothing
_MOST_WORDS = 40
_FEWEST_LEFT = 15  # words of the rest, so that there is something to be found by


@dataclass(frozen=True, slots=True)
class _Item:
    """A document that a query can be made of: ``query`` and what is left of the document without it."""

    place: int
    query: str
    rest: str


def load(path: Path, queries: int = QUERIES, seed: int = 0) -> Collection:
    """The documents in ``path``, JSON lines with `id`, `text` and perhaps `title`, and ``queries`` queries of them.

    They are drawn by ``seed`` from the documents that have a title, or a first sentence, of 3 to 40 words that no other
    document has, and 15 more words. It is removed from the document that it asks for, wherever it stands there: found
    it has to be by what it is about. Raises CollectionError where a line can't be used, or no document is long enough.
    """
    documents = read_documents(path)
    items = _items(documents)
    if not items:
        raise CollectionError(
            f"{path}: no query can be made of these documents; each needs a title, or a first sentence, of "
            f"{_FEWEST_WORDS} to {_MOST_WORDS} words that no other one has, and {_FEWEST_LEFT} words beside it"
        )
    drawn = random.Random(seed).sample(items, min(queries, len(items)))
    drawn.sort(key=lambda item: item.place)
    rests = {item.place: item.rest for item in drawn}
    asked = {f"known-{documents[item.place].id}": item for item in drawn}
    return checked(
        path.stem,
        [
            Document(document.id, rests[place]) if place in rests else document
            for place, document in enumerate(documents)
        ],
        {query: item.query for query, item in asked.items()},
        {query: {documents[item.place].id: 1} for query, item in asked.items()},
        labels=f"known-item queries: titles and first sentences of {len(drawn)} of the {len(documents)} documents",
        sources=Sources(str(path), str(path), str(path)),
        warnings=[
            "nobody has judged these queries, each of which was made of the one document that it asks for: compare "
            "rerankers by them, but do not take the figures for what users will see"
        ],
    )


def read_documents(path: Path) -> list[Document]:
    """Documents from JSON lines with `id`, `text` and perhaps `title`. Raises CollectionError."""
    documents = []
    for where, identifier, entry in read_entries(path, "id", _DOCUMENT):
        title = string(entry, "title", where, _DOCUMENT, default="")
        documents.append(Document(identifier, titled(title, string(entry, "text", where, _DOCUMENT)), title))
    return documents


def _items(documents: list[Document]) -> list[_Item]:
    found = []
    for place, document in enumerate(documents):
        query = " ".join((document.title.strip() or _SENTENCE_END.split(document.text.strip(), maxsplit=1)[0]).split())
        rest = _without(document.text, query)
        if _FEWEST_WORDS <= len(query.split()) <= _MOST_WORDS and len(rest.split()) >= _FEWEST_LEFT:
            found.append(_Item(place, query, rest))
    times = Counter(item.query.lower() for item in found)
    return [item for item in found if times[item.query.lower()] == 1]


def _without(text: str, query: str) -> str:
    """``text`` without ``query``, wherever it stands, in whatever case and however it is broken into lines."""
    words = r"\s+".join(map(re.escape, query.split()))
    return " ".join(re.sub(words, " ", text, flags=re.IGNORECASE).split()).lstrip(". ")
