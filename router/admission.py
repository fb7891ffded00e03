"""Who computes next, and who need not wait because it can't be in time. Pure: times are arguments, in seconds.

Every request has a mandatory part, its first candidates, and an optional rest. In the order MANDATORY_FIRST:
- Mandatory work goes by earliest deadline, which is optimal as long as everything can be in time (Liu and Layland,
  1973), and a newcomer is admitted only if it and all that were admitted before it can be: without admission, earliest
  deadline first collapses under overload, because it starts what is nearly late and ends it too late. For the same
  reason one that has become late after all is done while nobody else waits, as far as that goes, or not at all.
- Optional work is done only while no mandatory work waits, so that under load everybody gets a little, not some all.
In every order, those who come next may be computed in one call with the one whose turn it is (`along`): a call costs
something beside its work, on a GPU most of it.
FIFO and EDF know no parts and admit everybody; they are what one would do without this, and are kept to compare with.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import partial

from router.latency import Pace


class Order(StrEnum):
    """Which of the waiting goes first."""

    MANDATORY_FIRST = "mandatory_first"
    EDF = "edf"
    FIFO = "fifo"


class Level(IntEnum):
    """What kind of work it is; lower goes first."""

    MANDATORY = 0
    OPTIONAL = 1
    IDLE = 2
    """Nobody waits for it, such as work that is done ahead of time."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Work that waits or is under way.

    ``end``: when it is needed; ``needs_s``: how long it will take, in the median; ``spare_s``: how much longer it may
    take and must still be in time; ``least_s``: how long the least takes that is worth starting; ``arrived``: when its
    request came. Both moments are of one clock.

    ``tokens``: what there is to compute, where it may be computed in one call with other claims; 0: it is alone.
    """

    level: Level
    end: float
    needs_s: float
    spare_s: float = 0.0
    least_s: float = 0.0
    arrived: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sharing:
    """How claims may share a call: how long one takes, how many may be in it, and how long it may be in the median."""

    pace: Pace
    most_claims: int
    longest_ms: float


def urgency(order: Order, claim: Claim) -> tuple[float, ...]:
    """A sort key: the smallest goes first. Idle work comes last in every order."""
    idle = claim.level is Level.IDLE
    match order:
        case Order.MANDATORY_FIRST:
            return claim.level, claim.end, claim.arrived
        case Order.EDF:
            return idle, claim.end, claim.arrived
        case Order.FIFO:
            return idle, claim.arrived


def wait_s(
    order: Order,
    claims: Iterable[Claim],
    new: Claim,
    busy_s: float,
    workers: int = 1,
    *,
    now: float = 0.0,
    sharing: Sharing | None = None,
) -> float:
    """How long ``new`` would wait: for ``busy_s`` of work under way and for the ``claims`` that go before it.

    Several workers are taken for one that is as many times faster, which is exact only for many short claims.
    """
    key = partial(urgency, order)
    ahead = sorted((claim for claim in claims if key(claim) <= key(new)), key=key)
    start = now + busy_s / workers
    return max(_ends(ahead, start, workers, sharing), default=start) - now


def admits(
    order: Order,
    claims: Iterable[Claim],
    new: Claim,
    busy_s: float,
    now: float,
    workers: int = 1,
    *,
    sharing: Sharing | None = None,
) -> bool:
    """Whether the mandatory ``new`` can be in time without making one of the mandatory ``claims`` late.

    What is late anyway blocks nobody: it will not be done. FIFO and EDF admit everything.
    """
    if order is not Order.MANDATORY_FIRST:
        return True
    key = partial(urgency, order)
    mandatory = sorted((claim for claim in claims if claim.level is Level.MANDATORY), key=key)
    place = bisect_right(mandatory, key(new), key=key)
    start = now + busy_s / workers
    ends = _ends([*mandatory[:place], new, *mandatory[place:]], start, workers, sharing, skip_late=True)
    if ends[place] + new.spare_s > new.end:
        return False
    without = _ends(mandatory, start, workers, sharing, skip_late=True)
    del ends[place]
    return all(
        with_new <= claim.end or alone > claim.end
        for claim, with_new, alone in zip(mandatory, ends, without, strict=True)
    )


def _ends(
    queue: Sequence[Claim], start: float, workers: int, sharing: Sharing | None, *, skip_late: bool = False
) -> list[float]:
    """When each of the ``queue`` ends, in the median, if it is computed in this order; infinite: it is skipped."""
    ends: list[float] = []
    at = start
    while len(ends) < len(queue):
        first, others = queue[len(ends)], queue[len(ends) + 1 :]
        if skip_late and at + first.needs_s / workers > first.end:
            ends.append(math.inf)
            continue
        joined = along(first, others, sharing, at) if sharing else 0
        needs_s = first.needs_s
        if sharing and joined:
            tokens = first.tokens + sum(claim.tokens for claim in others[:joined])
            needs_s = sharing.pace.at(tokens).p50_ms / 1e3
        at += needs_s / workers
        ends += [at] * (1 + joined)
    return ends


def startable(order: Order, claims: Sequence[Claim], now: float) -> tuple[list[int], list[int]]:
    """Positions of the claims that may be started, first things first, and of those that are too late."""
    late = [position for position, claim in enumerate(claims) if now > latest_start(claim)]
    dropped = set(late)
    rest = [position for position in range(len(claims)) if position not in dropped]
    return sorted(rest, key=lambda position: urgency(order, claims[position])), late


def along(first: Claim, others: Sequence[Claim], sharing: Sharing, now: float) -> int:
    """How many of the ``others`` are computed in one call with ``first``; they wait behind it, first things first.

    One goes along if all of the call's claims are still in time, at p95, and if those who wait gain by it: everybody in
    the call waits longer by the newcomer's work, the newcomer and all behind it less by what a call costs beside its
    work. Nobody is passed over, so that what was admitted in this order stays in time.
    """
    pace = sharing.pace
    tokens, end = first.tokens, first.end
    for joined, claim in enumerate(others):
        tokens, end = tokens + claim.tokens, min(end, claim.end)
        predicted = pace.at(tokens)
        lose_ms = (1 + joined) * pace.p50_ms_per_token * claim.tokens
        gain_ms = (len(others) - joined) * pace.p50_base_ms
        if (
            not (first.tokens and claim.tokens)
            or claim.level is not first.level
            or joined + 2 > sharing.most_claims
            or predicted.p50_ms > sharing.longest_ms
            or now + predicted.p95_ms / 1e3 > end
            or lose_ms > gain_ms
        ):
            return joined
    return len(others)


def latest_start(claim: Claim) -> float:
    """When work that has not been started by then is too late: not even the least of it fits any more."""
    return claim.end - claim.least_s
