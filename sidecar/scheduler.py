"""Who computes next on the workers of one reranker: requests take turns, a chunk at a time.

`router.admission` has the rules; here are the requests that wait, and the workers that become free. A turn is given
only when a worker is free, so that a request decides what to compute when it knows how much time is left. Requests with
little to compute may be given one turn together, for a single call.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from router.admission import Claim, Level, Order, Sharing, admits, along, latest_start, startable, wait_s
from sidecar.shared_call import Share, shared


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How work is ordered. ``mandatory_documents``: a request's first candidates, which go before everything else;
    ``requests_per_call``: how many requests may be computed in one call of a model."""

    order: Order = Order.MANDATORY_FIRST
    mandatory_documents: int = 16
    requests_per_call: int = 8


class Worker(Protocol):
    """What computes."""

    @property
    def idle(self) -> bool:
        """Ready, and nothing under way."""
        ...

    @property
    def computed_ms(self) -> float:
        """What it has computed since the start."""
        ...


class TooLateError(Exception):
    """The work can't be done in time any more, or could not even when it came: others are before it."""


class Turn:
    """The right to use one worker. A context manager; a call that is still under way when it ends keeps the worker."""

    def __init__(
        self, scheduler: Scheduler, place: Place, worker: Worker, now: float, share: Share | None = None
    ) -> None:
        self._scheduler = scheduler
        self.place = place
        self.worker = worker
        self.began = now
        self.waited_ms = (now - place.asked_at) * 1e3
        self.ended = False
        self.expected_s = 0.0
        """How long the worker will be busy, as soon as the holder knows."""
        self.share = share
        """The part of a call that others have their turns for, too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """The worker is free for others: at once, or when the call under way has ended."""
        if self.share is not None:
            self.share.leave()
        self.ended = True
        self._scheduler.look()

    @property
    def beside_tokens(self) -> int:
        """What is computed for other requests in the same call."""
        return self.share.beside_tokens if self.share else 0

    @property
    def speaks_for_call(self) -> bool:
        """Whether it is this turn that says how long the call took, so that nobody learns it twice."""
        return self.share is None or self.share.leads

    @property
    def contended(self) -> bool:
        """See `Scheduler.contended`."""
        return self._scheduler.contended

    def left_s(self, now: float) -> float:
        """What the worker still needs. Late by x, it is expected to need x more: a hung one looks ever busier."""
        return abs(self.began + self.expected_s - now)


class Place:
    """One request's place in the queue, from its first wish to its last chunk. A context manager."""

    def __init__(self, scheduler: Scheduler, claim: Claim) -> None:
        self._scheduler = scheduler
        self.claim = claim
        self.turn: asyncio.Future[Turn] | None = None  # what it waits for
        self.asked_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scheduler.leave(self)

    async def next_turn(self, level: Level, needs_s: float, least_s: float = 0.0, tokens: int = 0) -> Turn:
        """Waits for a worker. ``needs_s`` is what is left to compute of this level, ``least_s`` what is worth a turn.

        ``tokens``: all of it as one chunk that may be computed in a call with others (see `Scheduler.sharing`).
        Raises TooLateError as soon as it can't be in time any more, and what the workers died of.
        """
        self.claim = replace(self.claim, level=level, needs_s=needs_s, least_s=least_s, tokens=tokens)
        return await self._scheduler.wait(self)


class Scheduler:
    """The queue of one reranker. All of it runs on the event loop; nothing blocks."""

    def __init__(self, workers: Sequence[Worker], scheduling: Scheduling) -> None:
        self.scheduling = scheduling
        self._workers = workers
        self._places: dict[Place, None] = {}  # in order of arrival
        # Also those that ended while their worker was still busy.
        self._turns: dict[Worker, tuple[Turn, ...]] = {}
        self._planned = False
        self.sharing: Sharing | None = None
        """How requests may share calls, kept up to date by them; None: not at all."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a turn."""
        # Asked by threads that export metrics, too: a copy does not change while it is looked through.
        return sum(place.turn is not None for place in tuple(self._places))

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._workers)

    @property
    def computed_ms(self) -> float:
        """What the workers have computed since the start, for whomever."""
        return sum(worker.computed_ms for worker in self._workers)

    def mandatory(self, documents: int) -> int:
        """How many of a request's ``documents`` are its mandatory part."""
        return min(documents, self.queued_k) if self.queued_k else documents

    @property
    def queued_k(self) -> int:
        """Behind others, fewer of a request's documents than that are not worth a place; 0: any number is."""
        return self.scheduling.mandatory_documents if self.scheduling.order is Order.MANDATORY_FIRST else 0

    @property
    def contended(self) -> bool:
        """Whether mandatory work waits, which is to be done whole or not at all; never in orders that know no parts."""
        own = self.scheduling.order is Order.MANDATORY_FIRST
        return own and any(place.turn is not None and place.claim.level is Level.MANDATORY for place in self._places)

    def queue_ms(self, end: float = math.inf) -> float:
        """How long mandatory work that must be done by ``end`` would wait before it starts."""
        now = asyncio.get_running_loop().time()
        newcomer = Claim(Level.MANDATORY, end, 0.0, arrived=now)
        order, busy_s = self.scheduling.order, self._busy_s(now)
        claims, workers = self._claims(), len(self._workers)
        return 1e3 * wait_s(order, claims, newcomer, busy_s, workers, now=now, sharing=self.sharing)

    def join(self, claim: Claim) -> Place:
        """A place for a request whose mandatory part is ``claim``. Raises TooLateError where it can't be in time."""
        now = asyncio.get_running_loop().time()
        order = self.scheduling.order
        if not admits(order, self._claims(), claim, self._busy_s(now), now, len(self._workers), sharing=self.sharing):
            raise TooLateError
        return self.squeeze_in(claim)

    def squeeze_in(self, claim: Claim) -> Place:
        """A place without being asked whether there is time: for work that is not a request's."""
        place = Place(self, claim)
        self._places[place] = None
        return place

    def leave(self, place: Place) -> None:
        """The request is done, or its caller has gone."""
        self._places.pop(place, None)

    async def wait(self, place: Place) -> Turn:
        """See `Place.next_turn`."""
        loop = asyncio.get_running_loop()
        place.asked_at = loop.time()
        place.turn = loop.create_future()
        self.look()
        latest = None if place.claim.level is Level.IDLE else latest_start(place.claim)
        try:
            async with asyncio.timeout_at(latest):
                return await place.turn
        except (TimeoutError, asyncio.CancelledError) as error:
            # The turn may have been given in the same moment.
            if place.turn.done() and not place.turn.cancelled() and place.turn.exception() is None:
                place.turn.result().end()
            if isinstance(error, TimeoutError):
                raise TooLateError from error
            raise
        finally:
            place.turn = None

    def look(self) -> None:
        """Something has changed: somebody came, or a worker became free.

        The turn is given a moment later, so that a request whose chunk has just ended is asked, too.
        """
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._give)

    def fail(self, error: Exception) -> None:
        """No worker is left: everybody who waits is told."""
        for place in self._places:
            if place.turn is not None and not place.turn.done():
                place.turn.set_exception(error)

    def _give(self) -> None:
        self._planned = False
        now = asyncio.get_running_loop().time()
        waiting = [place for place in self._places if place.turn is not None and not place.turn.done()]
        first, late = startable(self.scheduling.order, [place.claim for place in waiting], now)
        for position in late:
            _answer(waiting[position]).set_exception(TooLateError())
        free = self._free()
        behind = first[len(free) :]
        for worker, position in zip(free, first, strict=False):
            claim, others = waiting[position].claim, [waiting[other].claim for other in behind]
            joined = along(claim, others, self.sharing, now) if self.sharing else 0
            self._begin(worker, [waiting[each] for each in (position, *behind[:joined])], now)
            behind = behind[joined:]

    def _begin(self, worker: Worker, places: Sequence[Place], now: float) -> None:
        shares: Sequence[Share | None] = (None,)
        if len(places) > 1:
            shares = shared([place.claim.tokens for place in places])
        turns = tuple(Turn(self, place, worker, now, share) for place, share in zip(places, shares, strict=True))
        self._turns[worker] = turns
        for turn in turns:
            _answer(turn.place).set_result(turn)

    def _free(self) -> list[Worker]:
        for worker, turns in tuple(self._turns.items()):
            if worker.idle and all(turn.ended for turn in turns):
                del self._turns[worker]
        return [worker for worker in self._workers if worker.idle and worker not in self._turns]

    def _claims(self) -> list[Claim]:
        """What everybody still needs, without what is under way."""
        claims = {place: place.claim for place in self._places}
        for turn in itertools.chain.from_iterable(self._turns.values()):
            if not turn.ended and turn.place in claims:
                claim = turn.place.claim
                claims[turn.place] = replace(claim, needs_s=max(0.0, claim.needs_s - turn.expected_s), tokens=0)
        return list(claims.values())

    def _busy_s(self, now: float) -> float:
        return sum(
            max(turns, key=lambda turn: turn.expected_s).left_s(now)
            for worker, turns in self._turns.items()
            if not (worker.idle and all(turn.ended for turn in turns))
        )


def _answer(place: Place) -> asyncio.Future[Turn]:
    if place.turn is None:
        raise RuntimeError("only a place that waits is given a turn")
    return place.turn
