"""What requests were estimated to compute, from a sidecar's own record of its decisions: an answer does not say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sidecar.replay import read


def planned_tokens(files: Sequence[Path], asked: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Tokens by decision id, for those of ``asked`` (reranker and number of candidates) that are on record.

    ``files`` are decision logs, whole ones. Raises `sidecar.replay.ReplayError` for one that can't be read.
    """
    tokens: dict[str, int] = {}
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for recorded in read(lines, path.name):
                if recorded.id in asked:
                    reranker, k = asked[recorded.id]
                    (work,) = (view.work for view in recorded.asked.rerankers if view.name == reranker)
                    tokens[recorded.id] = work.tokens_at(k)
    return tokens
