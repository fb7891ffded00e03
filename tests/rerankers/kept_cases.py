"""Rerankers that keep their scores, with room enough for every test but those of the limits."""

from __future__ import annotations

from sidecar.rerankers.kept_scores import KeptScores
from tests.helpers import Clock, ScriptedReranker

TTL_S = 60.0
ROOMY = 1 << 20


def kept(inner: ScriptedReranker, max_bytes: int = ROOMY, clock: Clock | None = None) -> KeptScores:
    return KeptScores(inner, max_bytes, TTL_S, clock or Clock())
