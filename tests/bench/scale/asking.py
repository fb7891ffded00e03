"""A sidecar's pipeline in this process, whose models are where its settings say, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from router.arms import State
from router.policy import Routing
from sidecar.assemble_core import Core, build_core
from sidecar.messages import Completeness
from sidecar.settings import Settings
from tests.bench.report import BenchError
from tests.helpers import request

_SENTENCE = "the csv module reads and writes rows of a file as lists of text with a delimiter between the fields"
_WORDS = 60
BUDGET_MS = 20_000.0  # no limit here
WARM_UP = 20  # requests
_PATIENCE_S = 120.0


class Asking:
    """Requests of ``candidates`` texts of so many words for the reranker ``model``."""

    def __init__(self, core: Core, model: str, candidates: int, words: int) -> None:
        self._core = core
        self._model = model
        self._candidates = candidates
        self._words = words

    async def ask(self, number: int) -> float:
        """How long the request with this number takes, in ms. Raises BenchError for an answer that is not complete."""
        started = time.monotonic()
        asked = request(
            f"how to read a csv file {number}",
            *texts(number, self._candidates, self._words),
            budget_ms=BUDGET_MS,
            use_cache=False,
            routing=Routing(reranker=self._model, rerank_k=self._candidates),
        )
        answer = await self._core.pipeline.rerank(asked, None, started)
        if answer.outcome.completeness is not Completeness.FULL:
            # Its time would say nothing.
            missing = ", ".join(each.detail for each in answer.outcome.degradations)
            raise BenchError(f"an answer was less than planned: {missing}")
        return (time.monotonic() - started) * 1e3


@contextlib.asynccontextmanager
async def asking(settings: Settings, model: str, candidates: int, words: int = _WORDS) -> AsyncIterator[Asking]:
    """A pipeline whose model is ready and has been asked a few times."""
    core = build_core(settings, {})
    await core.start()
    try:
        end = time.monotonic() + _PATIENCE_S
        while core.rerankers[model].availability().state is not State.READY:
            if time.monotonic() > end:
                raise BenchError(core.rerankers[model].availability().detail)
            await asyncio.sleep(0.1)
        asked = Asking(core, model, candidates, words)
        for number in range(WARM_UP):
            await asked.ask(number)
        yield asked
    finally:
        await core.stop()


def texts(number: int, candidates: int, words: int = _WORDS) -> list[str]:
    """Different ones for every request, of so many words."""
    text = " ".join(itertools.islice(itertools.cycle(_SENTENCE.split()), words))
    return [f"{number} {position} {text}" for position in range(candidates)]


async def together(ask: Callable[[int], Awaitable[float]], callers: int, seconds: float) -> tuple[list[float], float]:
    """Sorted times of requests by callers that never wait, and how long all of it took, in s."""
    took: list[float] = []
    started = time.monotonic()

    async def caller(which: int) -> None:
        number = 1_000_000 * (which + 1)
        while time.monotonic() < started + seconds:
            took.append(await ask(number))
            number += 1

    await asyncio.gather(*(caller(which) for which in range(callers)))
    return sorted(took), time.monotonic() - started
