"""What the demo searches: the built-in collection's candidates for every question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from millirank import Document

from sidecar.calibrate import stdlib
from sidecar.commands.demo_measure import Search

if TYPE_CHECKING:
    from sidecar.calibrate.first_stage import FirstStage, Mode

CANDIDATES = 50


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
