"""The embedded model behind a real sidecar, asked by the real client."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from millirank import AsyncClient, CacheStatus, Client, Outcome, Reason, RerankerOffError

from tests.e2e.conftest import ModelSidecar, model_settings, wait_until_ready
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess

QUERY = "How do I sort a list of dictionaries by a key?"
TEXTS = (
    "The tempfile module creates temporary files and directories.",
    "An HTTP server waits for connections on a TCP port.",
    "sorted() takes a key function: sorted(people, key=lambda person: person['age']) orders dictionaries by age.",
    "Threads share the memory of their process.",
)
BUDGET_MS = 30_000.0  # so that a loaded machine never makes the answer less than complete


@pytest.fixture
def client(model_sidecar: ModelSidecar) -> Iterator[Client]:
    with Client(model_sidecar.tcp) as client:
        yield client


def test_the_relevant_document_comes_first(client: Client) -> None:
    """The model's purpose: of four texts, the one that answers the question."""
    ranking = client.rerank(QUERY, TEXTS, budget_ms=BUDGET_MS)
    assert ranking.outcome is Outcome.RANKED
    assert ranking[0].document == TEXTS[2]
    assert sorted(result.index for result in ranking) == [0, 1, 2, 3]
    assert ranking.decision is not None
    assert ranking.decision.reranker == "minilm-l6"
    assert ranking.decision.model_revision not in {"", "unavailable"}


def test_documents_are_warm_the_second_time(client: Client) -> None:
    """Vectors of documents that were scored are kept: another query over them finds them all."""
    client.rerank("first question about warmth", TEXTS, budget_ms=BUDGET_MS, use_cache=False)
    again = client.rerank("second question about warmth", TEXTS, budget_ms=BUDGET_MS, use_cache=False)
    assert again.usage is not None
    assert again.usage.cached_pairs == len(TEXTS)


def test_repeated_request_is_kept(client: Client) -> None:
    """The second equal request is a HIT with the same order."""
    first = client.rerank("kept?", TEXTS, budget_ms=BUDGET_MS, tenant="kept")
    second = client.rerank("kept?", TEXTS, budget_ms=BUDGET_MS, tenant="kept")
    assert (first.cache_status, second.cache_status) == (CacheStatus.MISS, CacheStatus.HIT)
    assert [each.index for each in first] == [each.index for each in second]


def test_unix_socket_gives_the_same_answer(client: Client, model_sidecar: ModelSidecar) -> None:
    """Order and scores do not depend on the listener."""
    with Client(model_sidecar.unix) as other:
        rankings = [each.rerank(QUERY, TEXTS, budget_ms=BUDGET_MS, use_cache=False) for each in (client, other)]
    over_tcp, over_unix = ([(item.index, item.raw_score) for item in ranking] for ranking in rankings)
    assert over_tcp == over_unix


def test_odd_texts_are_answered(client: Client) -> None:
    """Invariant 2: one character, a megabyte, control characters, many scripts, a thousand documents: an ordering."""
    texts = ["x", "y" * 1_000_000, "\x00\x1b[31m", "日本語 العربية עברית 🧵", *(f"document {n}" for n in range(996))]
    ranking = client.rerank("odd", texts, budget_ms=BUDGET_MS, rerank_k=4, strategy="late_interaction")
    assert not ranking.fallback, ranking.degradations
    assert sorted(result.index for result in ranking) == list(range(1000))
    assert next(result for result in ranking if result.index == 1).truncated


def test_model_that_is_not_there_is_off(client: Client) -> None:
    """A configured model without its folder does not stop the sidecar; forced, it says what is missing."""
    with pytest.raises(RerankerOffError, match="/nowhere/model"):
        client.rerank(QUERY, TEXTS, budget_ms=BUDGET_MS, reranker="absent")


async def test_many_callers_at_once(model_sidecar: ModelSidecar) -> None:
    """Invariants 1 to 3 under load: 200 concurrent requests of 60 ms each get an ordering, and every one that is less
    than planned has a reason. The time is the client's promise and is measured there."""
    async with AsyncClient(model_sidecar.tcp) as client:
        rankings = await asyncio.gather(
            *(client.rerank(f"question {number}", TEXTS, budget_ms=60.0) for number in range(200))
        )
    for ranking in rankings:
        assert sorted(result.index for result in ranking) == [0, 1, 2, 3]
        if ranking.outcome is not Outcome.RANKED:
            assert ranking.reasons


def test_killed_model_process_comes_back(tmp_path: Path) -> None:
    """Invariants 2 and 6: with its model process killed the sidecar goes on answering, and a new one takes over; the
    sidecar's own end, by SIGKILL, leaves no model process behind."""
    with SidecarProcess(model_settings(tmp_path)) as sidecar:
        (address,) = sidecar.addresses
        wait_until_ready(address)
        (child,) = children_of(sidecar.pid)
        os.kill(child, signal.SIGKILL)
        with Client(address) as client:
            ranking = client.rerank(QUERY, TEXTS, budget_ms=BUDGET_MS)
        assert [each.index for each in ranking] == [0, 1, 2, 3]
        assert set(ranking.reasons) <= {Reason.BACKEND_ERROR, Reason.NOT_READY}
        assert ranking.reasons
        wait_until_ready(address)
        (successor,) = children_of(sidecar.pid)
        assert successor != child
        gone = os.pidfd_open(successor)
        try:
            sidecar.signal(signal.SIGKILL)
            sidecar.exit_code()
            # A pidfd is readable when its process has ended.
            assert select.select([gone], [], [], PATIENCE_S)[0] == [gone]
        finally:
            os.close(gone)


def children_of(pid: int) -> list[int]:
    """Process ids of a process's children, from /proc."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]
