"""Documents and ids from the files that ``millirank index`` is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar import json_text

MAX_ID_CHARACTERS = 512  # of `indexed_ref.id` in the contract


class InputError(Exception):
    """The file can't be used. The message names the file, the line and the fix."""


@dataclass(frozen=True, slots=True)
class TextDocument:
    """One document to be indexed; ``id`` is what `indexed_ref.id` will be."""

    id: str
    text: str


def read_documents(path: Path) -> list[TextDocument]:
    """Documents from JSON lines ``{"id": ..., "text": ...}``; other keys are ignored. Raises InputError."""
    documents: list[TextDocument] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        document = _document(line, f"{path}, line {number}")
        if document.id in seen:
            raise InputError(f"{path}, line {number}: id {document.id!r} is already that of line {seen[document.id]}")
        seen[document.id] = number
        documents.append(document)
    if not documents:
        raise InputError(f"{path} holds no documents; write one JSON object a line")
    return documents


def read_ids(path: Path) -> list[str]:
    """One id a line, each once. Raises InputError."""
    identifiers = list(dict.fromkeys(line for _, line in _lines(path)))
    if not identifiers:
        raise InputError(f"{path} holds no ids; write one a line")
    return identifiers


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, stripped line) of those that are not blank."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8") from None


def _document(line: str, where: str) -> TextDocument:
    try:
        entry = json_text.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(entry, Mapping):
        raise InputError(f'{where}: write an object, such as {{"id": "7", "text": "..."}}')
    identifier, text = entry.get("id"), entry.get("text")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier.strip():
        raise InputError(f"{where}: 'id' is missing or empty; it has to be a string or a whole number")
    if len(identifier) > MAX_ID_CHARACTERS:
        raise InputError(f"{where}: 'id' has {len(identifier)} characters; at most {MAX_ID_CHARACTERS}")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: 'text' is missing or empty; it has to be a string")
    return TextDocument(identifier, text)
