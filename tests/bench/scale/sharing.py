"""What it is worth to compute small requests that wait in one call: the same callers, with and without."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sidecar.engines.sentence_transformers import EXTRA
from sidecar.reranker_settings import OnnxCrossEncoder, TorchCrossEncoder
from sidecar.settings import SchedulingSettings, Settings
from tests.bench.scale.asking import asking, together
from tests.bench.scale.workload import MODEL

CALLERS = 8
SMALL = (2, 5)
"""Candidates of a request, each as long as a title."""
TITLE_WORDS = 9
ROUNDS = 3
SECONDS = 3.0
_SHARED = SchedulingSettings().requests_per_call
# Weights are drawn at random: here it only counts how long it computes.
_TORCH = "a small XLM-R on torch"


@dataclass(frozen=True, slots=True)
class Compared:
    """Requests/s and the median in ms, with shared calls and with a call for each; a list has a value a round."""

    model: str
    candidates: int
    shared_per_s: list[float]
    alone_per_s: list[float]
    shared_p50_ms: float
    alone_p50_ms: float


async def compare() -> list[Compared]:
    """Every model that is installed, at each number of candidates; rounds of both kinds take turns."""
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str, OnnxCrossEncoder | TorchCrossEncoder] = {
            MODEL: OnnxCrossEncoder(model=f"embedded:{MODEL}", threads=1)
        }
        if has_torch():
            from tests.rerankers.checkpoints import make_xlmr

            made = make_xlmr(Path(folder) / "xlmr")
            models[_TORCH] = TorchCrossEncoder(engine="sentence_transformers", model=str(made), threads=1)
        return [
            await _compare(name, configured, candidates) for name, configured in models.items() for candidates in SMALL
        ]


def has_torch() -> bool:
    """Whether the extra ``torch`` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in EXTRA)


async def _compare(name: str, configured: OnnxCrossEncoder | TorchCrossEncoder, candidates: int) -> Compared:
    per_s: dict[int, list[float]] = {_SHARED: [], 1: []}
    p50_ms: dict[int, list[float]] = {_SHARED: [], 1: []}
    settings = {
        most: Settings(rerankers={"model": configured}, scheduling=SchedulingSettings(requests_per_call=most))
        for most in per_s
    }
    async with (
        asking(settings[_SHARED], "model", candidates, TITLE_WORDS) as shared,
        asking(settings[1], "model", candidates, TITLE_WORDS) as alone,
    ):
        for _ in range(ROUNDS):
            for most, asked in ((_SHARED, shared), (1, alone)):
                took, took_s = await together(asked.ask, CALLERS, SECONDS)
                per_s[most].append(len(took) / took_s)
                p50_ms[most].append(statistics.median(took))
    return Compared(
        name, candidates, per_s[_SHARED], per_s[1], statistics.median(p50_ms[_SHARED]), statistics.median(p50_ms[1])
    )
