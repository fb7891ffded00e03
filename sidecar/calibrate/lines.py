"""Reading a collection's files line by line, with errors that name the line and the fix."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidecar.calibrate.collection import CollectionError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of those that are not blank. Raises CollectionError for a file that can't be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors put a byte order mark before the first line
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as error:
        raise CollectionError(f"{path}: {error.strerror}; put the file there, or name another place") from None
    except UnicodeDecodeError:
        raise CollectionError(f"{path} is not UTF-8; convert it") from None


def read_rows(path: Path, columns: int, meaning: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of a file of tab separated columns. Raises CollectionError for a line with others."""
    for number, line in read_lines(path):
        row = [column.strip() for column in line.split("\t")]
        if len(row) != columns or not all(row):
            raise CollectionError(
                f"{path}, line {number}: has {len(row)} columns; write {columns}, separated by tabs: {meaning}"
            )
        yield number, row


def read_entries(path: Path, id_field: str, example: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(where, id, entry) of a file of JSON objects, one a line; ``example`` is such a line.

    Whole numbers are taken as ids too. Raises CollectionError for what is no such line, an id that repeats, or a file
    without lines.
    """
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CollectionError(f"{where} is not JSON ({error}); write {example}") from None
        if not isinstance(entry, dict):
            raise CollectionError(f"{where} is no JSON object; write {example}")
        identifier = entry.get(id_field)
        if isinstance(identifier, int) and not isinstance(identifier, bool):
            identifier = str(identifier)
        if not isinstance(identifier, str) or not identifier:
            raise CollectionError(f"{where}: {id_field!r} is missing or empty; write {example}")
        if identifier in lines:
            raise CollectionError(
                f"{where}: id {identifier!r} is already that of line {lines[identifier]}; make ids unique"
            )
        lines[identifier] = number
        yield where, identifier, entry
    if not lines:
        raise CollectionError(f"{path} is empty; write one JSON object a line, such as {example}")


def string(entry: Mapping[str, Any], field: str, where: str, example: str, default: str | None = None) -> str:
    """A field of an entry; ``default`` where it is missing or null. Raises CollectionError where it is no string."""
    value = entry.get(field)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise CollectionError(f"{where}: {field!r} is missing or no string; write {example}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CollectionError(f"{where}: {field!r} has half of a surrogate pair, which is no text; remove it") from None
    return value
