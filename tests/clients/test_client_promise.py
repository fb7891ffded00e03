"""The promise: an ordering within the budget, whatever the sidecar does."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from millirank import Client, Outcome, Ranking, Reason, RerankError
from millirank.testing import FakeSidecar, failing
from peers import DOCUMENTS, TOLERANCE_MS, sidecar_process, stopped_port, unresponsive_listener

BUDGET_MS = 50.0


async def timed(client: Any, **options: Any) -> tuple[Ranking[str], float]:
    """One rerank with the budget of this module, and the ms that its caller waited."""
    started = time.monotonic()
    ranking = await client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS, **options)
    return ranking, (time.monotonic() - started) * 1e3


def assert_fell_back(ranking: Ranking[str], reason: Reason) -> None:
    assert ranking.outcome is Outcome.FIRST_STAGE
    assert ranking.documents == DOCUMENTS
    assert ranking.fallback
    assert ranking.reasons == (reason,)
    assert ranking.decision is None


async def test_a_slow_sidecar_does_not_make_the_caller_slow(client: Any, sidecar: FakeSidecar) -> None:
    """The timer answers at the budget, neither later nor much earlier, in first-stage order."""
    sidecar.delay_ms = 2_000

    ranking, waited_ms = await timed(client)

    assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
    assert BUDGET_MS <= waited_ms <= BUDGET_MS + TOLERANCE_MS
    assert BUDGET_MS <= ranking.elapsed_ms <= waited_ms


async def test_a_late_answer_is_dropped_and_counted(client: Any, sidecar: FakeSidecar) -> None:
    """An answer 20 ms after the budget changes nothing for its caller, and shows up as late."""
    sidecar.delay_ms = BUDGET_MS + 20

    ranking, _ = await timed(client)
    at_once = client.stats.late
    await asyncio.sleep(0.1)

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
        for _ in range(3):
            ranking, waited_ms = await timed(client)
            assert_fell_back(ranking, Reason.SIDECAR_UNAVAILABLE)
            assert waited_ms <= TOLERANCE_MS
    finally:
        await client.close()


async def test_an_unresponsive_listener_costs_the_budget_and_no_more(make_client: Any) -> None:
    """A peer that accepts and says nothing: the timer answers, also at the second call."""
    with unresponsive_listener() as target:
        client = make_client(target)
        try:
            for _ in range(2):
                ranking, waited_ms = await timed(client)
                assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
                assert waited_ms <= BUDGET_MS + TOLERANCE_MS
        finally:
            await client.close()


async def test_a_frozen_sidecar_costs_the_budget_and_recovers(make_client: Any) -> None:
    """SIGSTOP in mid-connection: every call is answered in time; after SIGCONT the same connection ranks again."""
    with sidecar_process() as process:
        client = make_client(process.target)
        try:
            assert await client.wait_until_ready()
            assert (await client.rerank("query", DOCUMENTS, budget_ms=2_000)).outcome is Outcome.RANKED

            process.freeze()
            for _ in range(3):
                ranking, waited_ms = await timed(client)
                assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
                assert waited_ms <= BUDGET_MS + TOLERANCE_MS

            process.thaw()
            ranking = await client.rerank("query", DOCUMENTS, budget_ms=2_000)
            assert ranking.outcome is Outcome.RANKED
        finally:
            await client.close()


async def test_a_restarted_sidecar_is_used_again(client: Any, sidecar: FakeSidecar) -> None:
    """Down for a second: fallbacks; back within 500 ms of its return (gRPC's own backoff would be up to 1.6 s)."""
    sidecar.stop()
    down_until = time.monotonic() + 1.0
    while time.monotonic() < down_until:
        ranking, _ = await timed(client)
        assert ranking.reasons == (Reason.SIDECAR_UNAVAILABLE,)
        await asyncio.sleep(0.02)

    sidecar.start()
    started = time.monotonic()
    while (await timed(client))[0].outcome is not Outcome.RANKED:
        assert time.monotonic() - started < 0.5
        await asyncio.sleep(0.01)


async def test_a_sidecar_that_dies_in_mid_call_is_a_fallback(client: Any, sidecar: FakeSidecar) -> None:
    """The connection breaks while the caller waits: first-stage order, at once or at the budget."""
    sidecar.delay_ms = 5_000
    running = asyncio.create_task(timed(client))
    await asyncio.sleep(0.02)
    await asyncio.to_thread(sidecar.stop)

    ranking, waited_ms = await running

    assert ranking.fallback
    assert ranking.documents == DOCUMENTS
    assert waited_ms <= BUDGET_MS + TOLERANCE_MS


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
        assert ranking.elapsed_ms <= BUDGET_MS + TOLERANCE_MS
    assert client.stats.first_stage == 16


async def test_a_long_list_falls_back_in_time(client: Any, sidecar: FakeSidecar) -> None:
    """A thousand documents of 1 kB are prepared, sent and put back into first-stage order within the bound."""
    sidecar.delay_ms = 5_000
    documents = [f"{position} " + "word " * 200 for position in range(1_000)]

    ranking = await client.rerank("query", documents, budget_ms=BUDGET_MS)

    assert ranking.documents == documents
    assert ranking.elapsed_ms <= BUDGET_MS + TOLERANCE_MS


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

    started = time.monotonic()
    with pytest.raises(RerankError) as caught:
        await client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS, strict=True)

    assert (time.monotonic() - started) * 1e3 <= BUDGET_MS + TOLERANCE_MS
    assert caught.value.reason is Reason.SIDECAR_TIMEOUT
    assert (client.stats.raised, dict(client.stats.fallbacks)) == (1, {})


async def test_explain_has_nothing_to_fall_back_to(client: Any, sidecar: FakeSidecar) -> None:
    """A decision that can't be had is an error, with the reason."""
    sidecar.behaviour = failing("INTERNAL", "a bug")

    with pytest.raises(RerankError, match="a bug") as caught:
        await client.explain("query", DOCUMENTS)

    assert (caught.value.reason, caught.value.code) == (Reason.SIDECAR_ERROR, "INTERNAL")


async def test_a_cancelled_task_leaves_no_call_behind(sidecar: FakeSidecar) -> None:
    """Cancelling the caller's task ends it at once, counts as raised, and the client goes on."""
    from millirank import AsyncClient

    async with AsyncClient(sidecar.target) as client:
        assert await client.wait_until_ready()
        sidecar.delay_ms = 5_000
        running = asyncio.create_task(client.rerank("query", DOCUMENTS, budget_ms=4_000))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 0.5)
        assert client.stats.raised == 1

        sidecar.delay_ms = 0
        assert (await client.rerank("query", DOCUMENTS, budget_ms=1_000)).outcome is Outcome.RANKED


def test_the_timer_does_not_depend_on_the_wall_clock(sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is set back by an hour while the caller waits: the answer still comes at the budget."""
    with Client(sidecar.target) as client:
        assert client.wait_until_ready()
        sidecar.delay_ms = 5_000
        real = time.time
        threading.Timer(0.02, lambda: monkeypatch.setattr(time, "time", lambda: real() - 3_600)).start()

        ranking = client.rerank("query", DOCUMENTS, budget_ms=BUDGET_MS)

        monkeypatch.setattr(time, "time", real)
        assert_fell_back(ranking, Reason.SIDECAR_TIMEOUT)
        assert ranking.elapsed_ms <= BUDGET_MS + TOLERANCE_MS
