"""What a cascade makes of the first k candidates, from what its stages make of each: nothing has to run for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sidecar.calibrate.records import Floats, JudgedList, Stages
from sidecar.reranker_settings import CascadeSettings, LlmSettings
from sidecar.rerankers.cascade_scale import best_positions, one_scale
from sidecar.settings import Settings


def derivable(settings: Settings, measured: Iterable[str]) -> dict[str, Stages]:
    """The cascades of ``settings`` whose scores follow from ``measured`` rerankers' own.

    Both stages have to be measured, and a document's score by them must not depend on the others: not so for an LLM
    that ranks listwise.
    """
    names = set(measured)

    def pointwise(stage: str) -> bool:
        own = settings.rerankers[stage]
        return stage in names and not (isinstance(own, LlmSettings) and own.prompting == "listwise")

    return {
        name: Stages(own.first, own.second, own.second_k)
        for name, own in settings.rerankers.items()
        if name in names and isinstance(own, CascadeSettings) and pointwise(own.first) and pointwise(own.second)
    }


def scores_at(judged: JudgedList, reranker: str, k: int) -> Floats:
    """Raw scores [min(k, n)] of a reranker that is given the first ``k`` candidates; NaN where it has none.

    A cascade answers as `sidecar.rerankers.cascade` does: a stage that left out a candidate ends it, and the scores are
    the first stage's.
    """
    stages = judged.cascades.get(reranker)
    if stages is None:
        return judged.raw[reranker][:k]
    first, second = judged.raw[stages.first][:k], judged.raw[stages.second]
    if not np.isfinite(first).all():
        return first
    top = best_positions(first.tolist(), stages.second_k)
    seen = second[list(top)]
    return np.array(one_scale(first.tolist(), top, seen.tolist())) if np.isfinite(seen).all() else first
