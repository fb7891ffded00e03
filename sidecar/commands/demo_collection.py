"""What the demo searches: the standard library's documentation, without what differs between installations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from millirank import Document

from sidecar.calibrate import stdlib
from sidecar.commands.demo_measure import Search

if TYPE_CHECKING:
    from sidecar.calibrate.first_stage import FirstStage, Mode

CANDIDATES = 50
# Tk is not part of every installation, distutils of Python 3.11 only: without them, machines can be compared.
_LEFT_OUT = frozenset({"tkinter", "turtle", "distutils"})
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def documents() -> list[stdlib.StdlibDocument]:
    """The collection; built on first use, then cached. Raises as `stdlib.documents`."""
    return [document for document in stdlib.documents() if document.id.partition(".")[0] not in _LEFT_OUT]


def summary(document: stdlib.StdlibDocument) -> str:
    """Name and first sentence: what the dense first stage reads, as others embed a title and an abstract."""
    docstring = document.text.partition("\n")[2]
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return f"{document.id}: {_SENTENCE_END.split(paragraph, maxsplit=1)[0]}"


def search(first_stage: FirstStage, questions: Sequence[stdlib.Question], mode: Mode) -> list[Search]:
    """Every question with its candidates."""
    return [
        Search(
            question.id,
            question.text,
            tuple(
                Document(hit.id, hit.text, hit.signals) for hit in first_stage.search(question.text, CANDIDATES, mode)
            ),
        )
        for question in questions
    ]
