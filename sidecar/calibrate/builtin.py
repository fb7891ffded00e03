"""The built-in collection as calibration and the demo use it: without what differs between installations."""

from __future__ import annotations

import re
from pathlib import Path

from sidecar.calibrate import stdlib
from sidecar.calibrate.collection import Collection, Document, Sources, checked

NAME = "built-in"
SUMMARY_MAX_TOKENS = 48  # of name and first sentence: cuts one in a hundred
# Tk is not part of every installation, distutils of Python 3.11 only: without them, machines can be compared.
_LEFT_OUT = frozenset({"tkinter", "turtle", "distutils"})
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def load(cache_dir: Path | None = None, progress: bool = True) -> Collection:
    """The standard library's documentation with its questions. Raises as `stdlib.documents`."""
    documents, questions = searched(cache_dir, progress), stdlib.questions()
    return checked(
        NAME,
        [Document(document.id, document.text, document.id, summary(document)) for document in documents],
        {question.id: question.text for question in questions},
        stdlib.qrels(documents, questions),
        labels="questions written for the standard library's documentation, with the names that answer them",
        sources=Sources("the standard library", "the questions", "the answers"),
    )


def searched(cache_dir: Path | None = None, progress: bool = True) -> list[stdlib.StdlibDocument]:
    """The documents; built on first use, then cached. Raises as `stdlib.documents`."""
    documents = stdlib.documents(cache_dir, progress)
    return [document for document in documents if document.id.partition(".")[0] not in _LEFT_OUT]


def summary(document: stdlib.StdlibDocument) -> str:
    """Name and first sentence: what the dense first stage reads, as others embed a title and an abstract."""
    docstring = document.text.partition("\n")[2]
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return f"{document.id}: {_SENTENCE_END.split(paragraph, maxsplit=1)[0]}"
