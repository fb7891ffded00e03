"""While nobody asks, a local model measures itself again, and one that hangs is found."""

from __future__ import annotations

import os
import signal

import pytest

from router.arms import State
from sidecar.rerankers import local
from sidecar.rerankers.base import ScoreRequest
from tests.rerankers.local_models import (
    MINILM,
    QUERY,
    TINY_CROSS_ENCODER,
    cross_encoder,
    documents,
    late_interaction,
    ready,
    score,
    until,
)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after 5 s, but at once."""
    monkeypatch.setattr(local, "REHEARSE_AFTER_S", 0.01)
    monkeypatch.setattr(local, "_REHEARSAL_SHARE", 1.0)


async def test_every_sample_of_the_warm_up_is_measured_again() -> None:
    """One step after the other: other times for the same tokens. What rehearsing encodes is not kept for requests, and
    what they have kept stays."""
    reranker = late_interaction("li", MINILM, warm_idle=False)
    texts = documents(5)
    try:
        await ready(reranker)
        await score(reranker, texts)
        first = reranker.warm_up_samples()
        await until(lambda: all(new is not old for new, old in zip(reranker.warm_up_samples(), first, strict=True)))
        assert [tokens for tokens, _ in reranker.warm_up_samples()] == [tokens for tokens, _ in first]
        assert all(elapsed_ms > 0.0 for _, elapsed_ms in reranker.warm_up_samples())
        assert (await score(reranker, texts)).cached == 5
        assert reranker.work(ScoreRequest(QUERY, "", documents(5, tag="other"))).warm == 0
    finally:
        await reranker.close()


async def test_an_idle_child_that_hangs_is_replaced() -> None:
    """SIGSTOP while nobody asks: after the hard limit there is another child, before anybody has waited for it."""
    reranker = cross_encoder("ce", TINY_CROSS_ENCODER, hard_limit_s=0.5)
    try:
        await ready(reranker)
        frozen = reranker.pid
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)
        await until(lambda: reranker.pid not in (None, frozen) and reranker.availability().state is State.READY)
        assert len((await score(reranker, documents(3))).scores) == 3
    finally:
        await reranker.close()
