"""Queries and texts that an exported model is measured on: the standard library's documentation, or a user's file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from sidecar import json_text
from sidecar.calibrate import stdlib
from sidecar.engines.export.fidelity import PairGroup
from sidecar.engines.manifest import ModelError

QUERIES = 6
TEXTS = 8
WORD = re.compile(r"[a-z]{3,}")


def standard_library() -> list[PairGroup]:
    """`QUERIES` questions, each with the `TEXTS` documents that share most words with it: what a first stage finds.

    Raises OSError or RuntimeError when the documentation cannot be read.
    """
    documents = stdlib.documents()
    words = [set(WORD.findall(document.text.lower())) for document in documents]
    found = Counter(word for each in words for word in each)
    groups = []
    for question in stdlib.questions()[:QUERIES]:
        asked = set(WORD.findall(question.text.lower()))
        # Rare words count more, as in any lexical first stage; this one only has to find plausible candidates.
        scores = [sum(1 / found[word] for word in asked & each) for each in words]
        best = sorted(range(len(documents)), key=lambda i: -scores[i])[:TEXTS]
        groups.append(PairGroup(question.text, tuple(documents[i].text for i in best)))
    return groups


def from_file(path: Path) -> list[PairGroup]:
    """Lines of ``{"query": ..., "texts": [...]}`` with at least two texts. Raises ModelError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    groups = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json_text.loads(line)
            query, texts = row["query"], tuple(row["texts"])
            if not isinstance(query, str) or len(texts) < 2 or not all(isinstance(text, str) for text in texts):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            wanted = '{"query": "...", "texts": ["...", "...", ...]} with two texts or more'
            raise ModelError(f"{path}, line {number}: expected {wanted}") from error
        groups.append(PairGroup(query, texts))
    if not groups:
        raise ModelError(f"{path} has no lines: give at least one query with its texts")
    return groups
