"""``millirank collection``: the built-in collection as JSON lines, for other search stacks to index."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from sidecar.calibrate import stdlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--questions",
        action="store_true",
        help="write the questions that come with it instead, with the ids of the documents that answer each",
    )


def run(arguments: argparse.Namespace) -> int:
    """One JSON object a line on standard output; exit code 2 when the collection can't be built."""
    try:
        for row in _questions() if arguments.questions else _documents():
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    except (OSError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        sys.stderr.write(f"millirank collection: {error}\n")
        return 2
    return 0


def _documents() -> Iterator[dict[str, Any]]:
    for document in stdlib.documents():
        yield {"id": document.id, "text": document.text}


def _questions() -> Iterator[dict[str, Any]]:
    questions = stdlib.questions()
    judged = stdlib.qrels(stdlib.documents(), questions)
    for question in questions:
        yield {"id": question.id, "question": question.text, "answers": sorted(judged[question.id])}
