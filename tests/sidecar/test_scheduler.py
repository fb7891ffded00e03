"""Turns: who gets the free worker, who is told that it would be too late, and what is left when callers go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from router.admission import Claim, Level, Order
from sidecar.rerankers.base import BackendError
from sidecar.scheduler import Place, Scheduler, Scheduling, TooLateError
from tests.helpers import FakeWorker


def now() -> float:
    return asyncio.get_running_loop().time()


def join(scheduler: Scheduler, end_s: float, level: Level = Level.MANDATORY, needs_s: float = 0.01) -> Place:
    """A place whose work is needed in ``end_s`` seconds; not asked for admission."""
    return scheduler.squeeze_in(Claim(level, now() + end_s, needs_s, arrived=now()))


async def served(scheduler: Scheduler, places: Sequence[tuple[str, Place]]) -> list[str]:
    """The names in the order of their turns, while somebody else has the worker at first."""
    order: list[str] = []

    async def take(name: str, place: Place) -> None:
        with place, await place.next_turn(place.claim.level, place.claim.needs_s):
            order.append(name)

    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.01):
        takers = [asyncio.create_task(take(name, place)) for name, place in places]
        await asyncio.sleep(0)
    await asyncio.gather(*takers)
    return order


async def test_mandatory_work_goes_before_optional() -> None:
    """Whatever the deadlines and the arrival; among mandatory work the earliest deadline is first."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    places = [
        ("idle", join(scheduler, math.inf, Level.IDLE)),
        ("rest", join(scheduler, 1.0, Level.OPTIONAL)),
        ("later", join(scheduler, 5.0)),
        ("sooner", join(scheduler, 3.0)),
    ]
    assert await served(scheduler, places) == ["sooner", "later", "rest", "idle"]


@pytest.mark.parametrize(("order", "expected"), [(Order.FIFO, ["one", "two"]), (Order.EDF, ["two", "one"])])
async def test_rivals(order: Order, expected: list[str]) -> None:
    """In other orders everything is one part, by arrival or by deadline."""
    scheduler = Scheduler([FakeWorker()], Scheduling(order))
    assert scheduler.mandatory(50) == 50
    places = [("one", join(scheduler, 5.0)), ("two", join(scheduler, 3.0))]
    assert await served(scheduler, places) == expected


async def test_a_request_keeps_the_worker_while_it_is_first() -> None:
    """Between two chunks of one request the next one is asked too, but an earlier deadline stays first."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    order: list[str] = []

    async def chunks(name: str, place: Place) -> None:
        with place:
            for _ in range(2):
                with await place.next_turn(Level.MANDATORY, 0.01):
                    order.append(name)
                    await asyncio.sleep(0)

    await asyncio.gather(chunks("sooner", join(scheduler, 1.0)), chunks("later", join(scheduler, 2.0)))
    assert order == ["sooner", "sooner", "later", "later"]


async def test_one_turn_for_each_worker() -> None:
    """Two workers serve two at a time; the third waits for the first that is free."""
    scheduler = Scheduler([FakeWorker(), FakeWorker()], Scheduling())
    places = [join(scheduler, 5.0) for _ in range(3)]
    with (
        await places[0].next_turn(Level.MANDATORY, 0.01) as one,
        await places[1].next_turn(Level.MANDATORY, 0.01) as two,
    ):
        assert one.worker is not two.worker
        third = asyncio.create_task(places[2].next_turn(Level.MANDATORY, 0.01))
        await asyncio.sleep(0.01)
        assert not third.done()
    assert (await third).worker is one.worker


async def test_work_that_cannot_be_in_time_is_refused_at_once() -> None:
    """Half a second of work behind half a second that was admitted does not fit 0.9 s, but 1.1 s."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    scheduler.join(Claim(Level.MANDATORY, now() + 0.6, 0.5))
    with pytest.raises(TooLateError):
        scheduler.join(Claim(Level.MANDATORY, now() + 0.9, 0.5))
    scheduler.join(Claim(Level.MANDATORY, now() + 1.1, 0.5))


async def test_work_that_has_become_too_late_is_not_started() -> None:
    """When its turn would have come, the least of it does not fit any more: it is told so, the next one is served."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.01):
        late = asyncio.create_task(join(scheduler, 0.1).next_turn(Level.MANDATORY, 0.09, least_s=0.09))
        fine = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.09))
        await asyncio.sleep(0.03)
    with pytest.raises(TooLateError):
        await late
    await fine


async def test_waiting_ends_with_the_budget() -> None:
    """While a worker hangs, who waits is told when even the least would not fit any more, and nothing stays behind."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.01):
        started = now()
        with pytest.raises(TooLateError), join(scheduler, 0.15) as place:
            await place.next_turn(Level.OPTIONAL, 0.05, least_s=0.1)
        assert 0.04 < now() - started < 0.15
        assert scheduler.waiting == 0


async def test_who_is_cancelled_leaves_at_once() -> None:
    """A cancelled waiter is out of the queue and out of its estimate."""
    scheduler = Scheduler([FakeWorker()], Scheduling())

    async def wait() -> None:
        with join(scheduler, 60.0, needs_s=30.0) as place:
            await place.next_turn(Level.MANDATORY, 30.0)

    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.0):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert scheduler.queue_ms(math.inf) == pytest.approx(30_000.0, abs=50.0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert scheduler.queue_ms(math.inf) < 50.0


async def test_a_turn_given_to_one_who_is_cancelled_goes_on() -> None:
    """Cancelled in the moment in which its turn comes, a waiter does not keep the worker."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    with join(scheduler, 9.0) as first:
        turn = await first.next_turn(Level.MANDATORY, 0.01)
        waiting = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.01))
        await asyncio.sleep(0)
        turn.end()
        await asyncio.sleep(0)  # the turn has been given, but its taker has not run yet
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1.0):
        await join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.01)


async def test_a_worker_that_was_left_behind_is_busy() -> None:
    """A call that nobody waits for any more keeps its worker, and the longer it is late the longer the wait looks."""
    worker = FakeWorker()
    scheduler = Scheduler([worker], Scheduling())
    with join(scheduler, 9.0) as place, await place.next_turn(Level.MANDATORY, 0.02) as turn:
        turn.expected_s = 0.02
        worker.idle = False
    waiting = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert 60.0 < scheduler.queue_ms(math.inf) < 500.0
    worker.idle = True
    scheduler.look()
    await waiting
    assert scheduler.queue_ms(math.inf) < 50.0


async def test_everybody_is_told_when_no_worker_is_left() -> None:
    """Those who wait get the reason at once, not at the end of their budgets."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.01):
        waiting = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.01))
        await asyncio.sleep(0)
        scheduler.fail(BackendError("the model process was killed"))
        with pytest.raises(BackendError, match="killed"):
            await waiting


async def test_the_queue_that_a_newcomer_sees_depends_on_its_deadline() -> None:
    """Those with earlier deadlines are before it; optional work never is."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    for end_s, level, needs_s in ((1.0, Level.MANDATORY, 0.1), (3.0, Level.MANDATORY, 0.2), (0.5, Level.OPTIONAL, 0.4)):
        join(scheduler, end_s, level, needs_s)
    for end_s, expected_ms in ((0.9, 0.0), (2.0, 100.0), (4.0, 300.0)):
        assert scheduler.queue_ms(now() + end_s) == pytest.approx(expected_ms)


async def test_contended_is_who_waits_with_mandatory_work() -> None:
    """While one has the worker: nobody waits, somebody with optional work, somebody with mandatory work."""
    scheduler = Scheduler([FakeWorker()], Scheduling())
    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.01) as turn:
        assert not turn.contended
        rest = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.OPTIONAL, 0.01))
        await asyncio.sleep(0)
        assert not turn.contended
        other = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.01))
        await asyncio.sleep(0)
        assert turn.contended
    (await other).end()
    (await rest).end()


async def test_orders_without_parts_are_never_contended() -> None:
    """FIFO and EDF start whatever fits, whoever waits."""
    scheduler = Scheduler([FakeWorker()], Scheduling(Order.EDF))
    with join(scheduler, 9.0) as first, await first.next_turn(Level.MANDATORY, 0.01) as turn:
        other = asyncio.create_task(join(scheduler, 5.0).next_turn(Level.MANDATORY, 0.01))
        await asyncio.sleep(0)
        assert not turn.contended
    (await other).end()


@pytest.mark.parametrize(("order", "expected"), [(Order.MANDATORY_FIRST, 16), (Order.EDF, 0), (Order.FIFO, 0)])
async def test_what_is_worth_a_place_is_the_mandatory_part(order: Order, expected: int) -> None:
    """The other orders know no parts: any number of documents is."""
    assert Scheduler([FakeWorker()], Scheduling(order)).queued_k == expected
