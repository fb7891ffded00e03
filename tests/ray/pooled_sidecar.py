"""A sidecar process whose cross-encoder is on a pool, and requests for it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from millirank import Client, Outcome, Ranking

from tests.e2e.sidecar_process import NO_MODELS, PATIENCE_S, SidecarProcess

MODEL = "tiny-cross-encoder"
ARM = "pooled"
WORDS = "the csv module reads and writes rows of a file as lists of text with a delimiter between the fields"


def sidecar(address: str, variables: Mapping[str, str] | None = None) -> SidecarProcess:
    """Not ready yet: see `until_ranked`."""
    prefix = f"MILLIRANK_RERANKERS__{ARM.upper()}__"
    return SidecarProcess(
        {
            **NO_MODELS,
            f"{prefix}STRATEGY": "cross_encoder",
            f"{prefix}ENGINE": "grpc",
            f"{prefix}ADDRESSES": f'["{address}"]',
            f"{prefix}RERANKER": MODEL,
            **(variables or {}),
        }
    )


def documents(count: int, tag: object = "") -> list[str]:
    """Different ones, so long that a model that reads more of them scores them otherwise."""
    words = WORDS.split()
    return [f"{tag} {number} " + " ".join(words[number % 7 :] * (1 + number % 5)) for number in range(count)]


def until_ranked(client: Client, reranker: str) -> Ranking[str]:
    """The first complete answer."""
    end = time.monotonic() + PATIENCE_S
    while True:
        ranking = client.rerank("warm", documents(2), reranker=reranker, budget_ms=5_000.0, use_cache=False)
        if ranking.outcome is Outcome.RANKED:
            return ranking
        assert time.monotonic() < end, ranking
        time.sleep(0.1)
