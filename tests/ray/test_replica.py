"""A model's replica, here without Ray around it: requests that come together are computed together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deploy.ray.replica import ModelReplica
from sidecar.reranker_settings import LocalModelSettings
from sidecar.rerankers.base import ScoreRequest
from sidecar.settings import load
from tests.rerankers.local_models import QUERY, documents

MODEL = "tiny-cross-encoder"
GENEROUS_MS = 30_000.0


class Replica(ModelReplica):
    """Ray awaits the end of a replica; Python, which calls it as well, would not."""

    def __del__(self) -> None:
        """Nothing: the fixture has done it."""


@pytest_asyncio.fixture
async def replica() -> AsyncIterator[ModelReplica]:
    """The embedded cross-encoder, as a pool's settings have it by default."""
    settings = load(None, os.environ)
    configured = settings.rerankers[MODEL]
    assert isinstance(configured, LocalModelSettings)
    replica = Replica.__new__(Replica)
    await replica.__init__(MODEL, configured, settings)  # as Ray does it
    yield replica
    await ModelReplica.__del__(replica)


async def test_requests_that_come_together_share_calls(replica: ModelReplica) -> None:
    """Sixteen of one candidate each: every answer is what the request gets alone, and fewer calls than requests."""
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    replica._telemetry = replace(replica._telemetry, tracer=provider.get_tracer("tests"))
    requests = [ScoreRequest(f"{QUERY} {number}", "", documents(1, tag=str(number))) for number in range(16)]
    alone = [(await replica.score(each, GENEROUS_MS, {})).scored.scores for each in requests]
    spans.clear()
    together = await asyncio.gather(*(replica.score(each, GENEROUS_MS, {}) for each in requests))
    for own, answer in zip(alone, together, strict=True):
        assert answer.scored.scores == pytest.approx(own, rel=0, abs=1e-5)
    others = [(span.attributes or {}).get("millirank.chunk.other_requests", 0) for span in spans.get_finished_spans()]
    assert sum(1 for each in others if each) >= 4, others
