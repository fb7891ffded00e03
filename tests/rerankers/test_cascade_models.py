"""The cascade of the two embedded models: late interaction over all candidates, the cross-encoder over the best."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NoOpTracer

from router.arms import State
from router.fusion import order
from sidecar.rerankers.base import Scored, ScoreRequest
from sidecar.rerankers.cascade import CascadeReranker
from sidecar.rerankers.cascade_scale import best_positions
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.late_interaction import LateInteraction
from tests.helpers import profile
from tests.rerankers.local_models import (
    MINILM,
    PATIENT_S,
    QUERY,
    TINY_CROSS_ENCODER,
    cross_encoder,
    document,
    late_interaction,
    ready,
)

SECOND_K = 4
WORDS = ("csv", "file", "reader", "thread", "socket", "read", "open", "Zeile", "行", "")


@dataclass(frozen=True, slots=True)
class Models:
    """Both stages and the cascade of them, and what runs their event loop."""

    first: LateInteraction
    second: CrossEncoder
    both: CascadeReranker
    runner: asyncio.Runner

    def score(self, reranker: LateInteraction | CrossEncoder | CascadeReranker, texts: list[str]) -> Scored:
        return self.runner.run(reranker.score(ScoreRequest(QUERY, "", list(map(document, texts))), PATIENT_S))


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with asyncio.Runner() as runner:
        first, second, both = runner.run(_started())
        yield Models(first, second, both, runner)
        runner.run(first.close())
        runner.run(second.close())


async def _started() -> tuple[LateInteraction, CrossEncoder, CascadeReranker]:
    first = late_interaction("wide", MINILM, warm_idle=False)
    second = cross_encoder("deep", TINY_CROSS_ENCODER)
    both = CascadeReranker("both", first, second, SECOND_K, profile=profile(), tracer=NoOpTracer())
    await ready(first)
    assert both.availability().state is State.WARMING
    await ready(second)
    assert both.availability().state is State.READY
    return first, second, both


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=12))
@settings(max_examples=25)
def test_any_list(models: Models, texts: list[str]) -> None:
    """Whatever comes in: the same scores as the stages give alone, the best of the first in the second's order, the
    others behind them in the first's, and everybody once."""
    scored = models.score(models.both, texts)
    assert scored.shortfall == ""
    first = models.score(models.first, texts).scores
    top = best_positions(first, SECOND_K)
    second = models.score(models.second, [texts[position] for position in top]).scores
    ranking = order(scored.scores, range(len(texts)), len(texts))
    assert sorted(ranking) == list(range(len(texts)))
    best = sorted(zip(second, top, strict=True), key=lambda pair: (-pair[0], pair[1]))
    rest = sorted(set(range(len(texts))) - set(top), key=lambda position: (-first[position], position))
    assert ranking == [position for _, position in best] + rest


def test_a_score_does_not_depend_on_the_call(models: Models) -> None:
    """The same list again gives the same scores to the last bit, kept vectors or not (invariant 4)."""
    texts = [f"{number} csv files and readers " * (1 + number % 5) for number in range(20)]
    once = models.score(models.both, texts)
    again = models.score(models.both, texts)
    assert once.scores == again.scores
    assert again.cached == len(texts)


def test_work_is_about_what_it_takes(models: Models) -> None:
    """Microseconds: predicted and measured agree to a factor of three, also on a machine with neighbours."""
    texts = [f"{number} about csv files, readers and {'the rows of them ' * 10}" for number in range(30)]
    ratios = []
    for _ in range(15):
        predicted = models.both.work(ScoreRequest(QUERY, "", list(map(document, texts)))).tokens_at(len(texts))
        started = time.monotonic()
        models.score(models.both, texts)
        ratios.append(1e6 * (time.monotonic() - started) / predicted)
    assert 1 / 3 < statistics.median(ratios[5:]) < 3


def test_warm_up_seeds_the_cascade(models: Models) -> None:
    """Both models' warm-ups are there, and a cascade's token is about a microsecond in them."""
    samples = models.both.warm_up_samples()
    assert len(samples) == len(models.first.warm_up_samples()) + len(models.second.warm_up_samples())
    assert 1 / 4 < statistics.median(1e3 * elapsed_ms / microseconds for microseconds, elapsed_ms in samples) < 4
