"""What calibration works on: one query's candidates with every score, and what a request cost in time.

The sweep makes these, the fit and the report read them; all of it is numbers, no text but the query's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stages:
    """A cascade of two rerankers: ``first`` scores all candidates, ``second`` the best ``second_k`` of them."""

    first: str
    second: str
    second_k: int


@dataclass(frozen=True, slots=True)
class JudgedList:
    """One query's n candidates in first-stage order.

    ``signals`` and ``raw`` (a reranker's own scores, by its name) are float64 [n], NaN where a candidate has none.
    ``lengths`` are characters. ``grades`` holds every judged document of the query, candidate or not, because the
    ideal order and recall need them all; what is not in it counts as 0. A cascade's scores depend on how many
    candidates it was given: ``raw`` has those for all n, and where it is in ``cascades``, `scores_at` has the others.
    """

    query_id: str
    query: str
    ids: tuple[str, ...]
    lengths: tuple[int, ...]
    signals: Mapping[str, Floats]
    raw: Mapping[str, Floats]
    grades: Mapping[str, int]
    cascades: Mapping[str, Stages] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LatencySample:
    """One request as its caller saw it, forced to ``reranker`` ("signals", "none" included) at ``rerank_k``.

    ``elapsed_ms`` is the whole call. ``stage_ms`` and ``tokens`` are what the router predicts of it and predicts it
    from: the time from the decision to the order, without the queue, and the tokens to compute as they were estimated
    before (`router.arms.Work`). ``warm`` says whether the candidates had been scored before (for another query).
    """

    reranker: str
    rerank_k: int
    warm: bool
    elapsed_ms: float
    stage_ms: float
    tokens: int
    pairs: int
    micro_usd: int
