"""The promise: an ordering within the budget, whatever the sidecar does."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from typing import Any

import pytest
from millirank import Client, Outcome, Ranking, Reason, RerankError
from millirank.testing import FakeSidecar, failing
from peers import DOCUMENTS, ROOMY_MS, TOLERANCE_MS, sidecar_process, stopped_port, unresponsive_listener

BUDGET_MS = 50.0


async def timed(client: Any) -> tuple[Ranking[str], float]:
    """One rerank with the budget of this module, and the ms that its caller waited."""
    started = time.monotonic()
    ranking = await client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS)
    return ranking, (time.monotonic() - started) * 1e3


def assert_fell_back(ranking: Ranking[str], reason: Reason) -> None:
    assert ranking.outcome is Outcome.FIRST_STAGE
    assert ranking.documents == DOCUMENTS
    assert ranking.fallback
    assert ranking.reasons == (reason,)
    assert ranking.decision is None


async def fastest_fallback(client: Any, reason: Reason) -> float:
    """Three reranks that all fall back for ``reason``; the ms of the fastest (see TOLERANCE_MS)."""
    waits = []
    for _ in range(3):
        ranking, waited_ms = await timed(client)
        assert_fell_back(ranking, reason)
        assert ranking.elapsed_ms <= waited_ms
        waits.append(waited_ms)
    return min(waits)


async def test_a_slow_sidecar_does_not_make_the_caller_slow(client: Any, sidecar: FakeSidecar) -> None:
    """The timer answers at the budget, neither later nor much earlier, in first-stage order."""
    sidecar.delay_ms = 2_000

    waited_ms = await fastest_fallback(client, Reason.SIDECAR_TIMEOUT)

    assert BUDGET_MS - 1 <= waited_ms <= BUDGET_MS + TOLERANCE_MS  # event loop timers have a resolution of 1 ms


async def test_a_late_answer_is_dropped_and_counted(client: Any, sidecar: FakeSidecar) -> None:
    """An answer 20 ms after the budget changes nothing for its caller, and shows up as late."""
    sidecar.delay_ms = BUDGET_MS + 20

    ranking, _ = await timed(client)
    at_once = client.stats.late
    await asyncio.sleep(0.2)

    assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
    assert (at_once, client.stats.late) == (0, 1)
    assert dict(client.stats.fallbacks) == {Reason.SIDECAR_TIMEOUT: 1}


async def test_an_answer_beyond_the_slack_is_not_waited_for(client: Any, sidecar: FakeSidecar) -> None:
    """The gRPC deadline, budget + 50 ms, ends a call that nobody waits for any more."""
    sidecar.delay_ms = BUDGET_MS + 150

    await timed(client)
    await asyncio.sleep(0.3)

    assert client.stats.late == 0


async def test_a_stopped_port_is_answered_at_once(make_client: Any) -> None:
    """Nothing listens: first-stage order without using up the budget."""
    client = make_client(stopped_port())
    try:
        assert await fastest_fallback(client, Reason.SIDECAR_UNAVAILABLE) <= TOLERANCE_MS
    finally:
        await client.close()


async def test_an_unresponsive_listener_costs_the_budget_and_no_more(make_client: Any) -> None:
    """A peer that accepts and says nothing: the timer answers, call after call."""
    with unresponsive_listener() as target:
        client = make_client(target)
        try:
            waited_ms = await fastest_fallback(client, Reason.SIDECAR_TIMEOUT)
            assert waited_ms <= BUDGET_MS + TOLERANCE_MS
        finally:
            await client.close()


async def test_a_frozen_sidecar_costs_the_budget_and_recovers(make_client: Any) -> None:
    """SIGSTOP in mid-connection: every call is answered in time; after SIGCONT the same connection ranks again."""
    with sidecar_process() as process:
        client = make_client(process.target)
        try:
            assert await client.wait_until_ready()
            assert (await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)).outcome is Outcome.RANKED

            process.freeze()
            waited_ms = await fastest_fallback(client, Reason.SIDECAR_TIMEOUT)
            assert waited_ms <= BUDGET_MS + TOLERANCE_MS

            process.thaw()
            ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)
            assert ranking.outcome is Outcome.RANKED
        finally:
            await client.close()


async def test_a_restarted_sidecar_is_used_again(client: Any, sidecar: FakeSidecar) -> None:
    """Down for a second: fallbacks; back within 500 ms of its return (gRPC's own backoff would be up to 1.6 s)."""
    sidecar.stop()
    down_until = time.monotonic() + 1.0
    while time.monotonic() < down_until:
        ranking, _ = await timed(client)
        # A connection that is just being tried keeps its calls waiting, on a busy machine until their budget ends.
        assert ranking.reasons in ((Reason.SIDECAR_UNAVAILABLE,), (Reason.SIDECAR_TIMEOUT,))
        await asyncio.sleep(0.02)

    sidecar.start()
    started = time.monotonic()
    while (await timed(client))[0].outcome is not Outcome.RANKED:
        assert time.monotonic() - started < 0.5
        await asyncio.sleep(0.01)


async def test_a_sidecar_that_dies_in_mid_call_is_a_fallback(client: Any, sidecar: FakeSidecar) -> None:
    """The connection breaks while the caller waits: first-stage order at once, not at the budget."""
    sidecar.delay_ms = 5_000
    running = asyncio.create_task(client.rerank("query", DOCUMENTS, budget_ms=1_000))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(sidecar.stop)

    ranking = await running

    assert (ranking.documents, ranking.fallback) == (DOCUMENTS, True)
    assert ranking.reasons == (Reason.SIDECAR_UNAVAILABLE,)
    assert 150 <= ranking.elapsed_ms <= 1_000 - 300


async def test_closing_answers_the_calls_in_flight(make_client: Any, sidecar: FakeSidecar) -> None:
    """close() while another caller waits: that caller gets first-stage order, not an exception."""
    sidecar.delay_ms = 5_000
    client = make_client(sidecar.target)
    assert await client.wait_until_ready()
    running = asyncio.create_task(client.rerank("query", DOCUMENTS, budget_ms=3_000))
    await asyncio.sleep(0.1)
    await client.close()

    assert_fell_back(await asyncio.wait_for(running, 1.0), Reason.SIDECAR_UNAVAILABLE)


async def test_many_callers_are_all_answered_in_time(client: Any, sidecar: FakeSidecar) -> None:
    """Sixteen callers at once over one connection to a sidecar that hangs: each is answered at its own budget."""
    sidecar.delay_ms = 5_000

    answers = await asyncio.gather(*(timed(client) for _ in range(16)))

    for ranking, _ in answers:
        assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
    # elapsed_ms and not the wait: the threads that stand for the sync client's callers are fewer than sixteen.
    assert statistics.median(ranking.elapsed_ms for ranking, _ in answers) <= BUDGET_MS + TOLERANCE_MS
    assert client.stats.first_stage == 16


async def test_a_long_list_falls_back_in_time(client: Any, sidecar: FakeSidecar) -> None:
    """A thousand documents of 1 kB are prepared, sent and put back into first-stage order within the bound."""
    sidecar.delay_ms = 5_000
    documents = [f"{position} " + "word " * 200 for position in range(1_000)]

    rankings = [await client.rerank("query", documents, budget_ms=BUDGET_MS) for _ in range(3)]

    assert all(ranking.documents == documents for ranking in rankings)
    assert min(ranking.elapsed_ms for ranking in rankings) <= BUDGET_MS + TOLERANCE_MS


async def test_a_zero_budget_asks_nobody(client: Any, sidecar: FakeSidecar) -> None:
    """Zero is valid: first-stage order and BUDGET_TOO_SMALL, without a request."""
    ranking = await client.rerank("query", DOCUMENTS, budget_ms=0)

    assert_fell_back(ranking, Reason.BUDGET_TOO_SMALL)
    assert sidecar.requests == []


async def test_a_caller_who_used_up_the_budget_is_answered_at_once(client: Any, sidecar: FakeSidecar) -> None:
    """The caller's own extractors count; when they took all of the budget nothing is sent any more."""

    def slow_text(document: str) -> str:
        time.sleep(0.02)
        return document

    ranking = await client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS, text=slow_text)

    assert_fell_back(ranking, Reason.BUDGET_EXHAUSTED)
    assert sidecar.requests == []


async def test_the_fallback_respects_top_n(make_client: Any) -> None:
    """top_n is the prefix of the first-stage order as well."""
    client = make_client(stopped_port())
    try:
        assert (await client.rerank("query", DOCUMENTS, top_n=2)).documents == DOCUMENTS[:2]
    finally:
        await client.close()


async def test_a_strict_caller_gets_an_exception_at_the_budget(client: Any, sidecar: FakeSidecar) -> None:
    """strict raises RerankError with the reason, as early as the fallback would have come."""
    sidecar.delay_ms = 5_000

    waits = []
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(RerankError) as caught:
            await client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS, strict=True)
        waits.append((time.monotonic() - started) * 1e3)
        assert caught.value.reason is Reason.SIDECAR_TIMEOUT

    assert min(waits) <= BUDGET_MS + TOLERANCE_MS
    assert (client.stats.raised, dict(client.stats.fallbacks)) == (3, {})


async def test_explain_has_nothing_to_fall_back_to(client: Any, sidecar: FakeSidecar) -> None:
    """A decision that can't be had is an error, with the reason."""
    sidecar.behaviour = failing("INTERNAL", "a bug")

    with pytest.raises(RerankError, match="a bug") as caught:
        await client.explain("query", DOCUMENTS)

    assert (caught.value.reason, caught.value.code) == (Reason.SIDECAR_ERROR, "INTERNAL")


def test_the_timer_does_not_depend_on_the_wall_clock(sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is set back by an hour while the caller waits: the answer still comes at the budget."""
    # The slack keeps the gRPC deadline, which is on the wall clock, from ending the call in the timer's place.
    with Client(sidecar.target, slack_ms=5_000) as client:
        assert client.wait_until_ready()
        sidecar.delay_ms = 5_000
        real = time.time
        threading.Timer(0.02, lambda: monkeypatch.setattr(time, "time", lambda: real() - 3_600)).start()

        ranking = client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS)

        monkeypatch.setattr(time, "time", real)
        assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
        assert ranking.elapsed_ms <= 1_000
