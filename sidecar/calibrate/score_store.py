"""Scores on disk, so that an interrupted sweep goes on where it was and a second one is done at once."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from sidecar import json_text
from sidecar.calibrate.records import Floats, JudgedList

_LOG = logging.getLogger(__name__)


class ScoreStore:
    """One reranker's scores on one collection: a file of JSON lines, one a query, written as they come.

    A line is found by the query's text and its candidates in their order, so another first stage or sample never gets
    scores that were not made for it. Everything else that they depend on is in the file's name. A line that can't be
    read, such as the last one of a sweep that was killed, is scored again.
    """

    def __init__(self, folder: Path, *, documents_digest: str, reranker: str, revision: str) -> None:
        """Raises OSError where ``folder`` can't be written."""
        folder.mkdir(parents=True, exist_ok=True)
        named = hashlib.sha256("\0".join((documents_digest, reranker, revision)).encode()).hexdigest()[:24]
        self._path = folder / f"scores-{named}.jsonl"
        self._known: dict[str, list[float | None]] = {}
        self._read()

    def get(self, judged: JudgedList) -> Floats | None:
        """Raw scores float64 [n] of the list's candidates, NaN where there is none; None where they are not kept."""
        kept = self._known.get(_key(judged))
        if kept is None or len(kept) != len(judged.ids):
            return None
        return np.array([np.nan if score is None else score for score in kept], np.float64)

    def put(self, judged: JudgedList, scores: Floats) -> None:
        """Keep scores of the list's candidates. Raises OSError where they can't be written."""
        plain = [float(score) if np.isfinite(score) else None for score in scores]
        self._known[_key(judged)] = plain
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"list": _key(judged), "scores": plain}) + "\n")

    def _read(self) -> None:
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return
        damaged = 0
        for line in filter(None, lines):
            try:
                entry: dict[str, Any] = json_text.loads(line)
                self._known[entry["list"]] = entry["scores"]
            except (ValueError, KeyError, TypeError):
                damaged += 1
        if damaged:
            _LOG.warning("%d lines of %s can't be read; their queries are scored again", damaged, self._path)
        if lines and lines[-1]:  # cut in the middle: the next line must not continue it
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")


def _key(judged: JudgedList) -> str:
    digest = hashlib.sha256(judged.query.encode())
    for document in judged.ids:
        encoded = document.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]
