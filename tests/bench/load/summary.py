"""From what the callers saw to shares, quantiles and the time to recover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.connection import quantile
from tests.bench.load.generator import Kind, Seen
from tests.bench.load.traffic import CANDIDATES

_WINDOW = 20  # requests
_AS_BEFORE = 0.05  # a share may be this much lower and count as recovered


@dataclass(frozen=True, slots=True)
class Summary:
    """One phase. Shares are of all requests that were sent; times in ms; ``coverage`` is scored / all candidates.

    ``wasted`` is the share of the models' computing time whose scores reached nobody in time; ``other_cpus`` is how
    many CPUs were busy with something else than sidecar and generator meanwhile: with more than a little, the times
    say something about that, too.
    """

    requests: int
    per_s: float
    in_budget: float
    useful: float
    full: float
    partial: float
    first_stage: float
    fallback: float
    errors: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    coverage: float
    wasted: float
    loop_lag_p99_ms: float
    generator_lag_p99_ms: float
    other_cpus: float


def summarise(
    seen: Sequence[Seen], seconds: float, computed_ms: float, loop_lag_p99_ms: float, other_cpus: float
) -> Summary:
    """``computed_ms`` is what the models have computed meanwhile. Raises ValueError where nothing was sent."""
    if not seen:
        raise ValueError("no request was sent: the phase is too short for its rate")
    latencies = [one.latency_ms for one in seen]
    used_ms = sum(one.score_ms for one in seen if one.in_budget)
    return Summary(
        requests=len(seen),
        per_s=len(seen) / seconds,
        in_budget=_share(seen, [one.in_budget for one in seen]),
        useful=_share(seen, [one.useful for one in seen]),
        full=_share(seen, [one.kind is Kind.FULL for one in seen]),
        partial=_share(seen, [one.kind is Kind.PARTIAL for one in seen]),
        first_stage=_share(seen, [one.kind is Kind.FIRST_STAGE for one in seen]),
        fallback=_share(seen, [one.kind is Kind.FALLBACK for one in seen]),
        errors=sum(one.kind is Kind.ERROR for one in seen),
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        p999_ms=quantile(latencies, 0.999),
        coverage=sum(one.scored for one in seen) / (CANDIDATES * len(seen)),
        wasted=max(0.0, 1.0 - used_ms / computed_ms) if computed_ms else 0.0,
        loop_lag_p99_ms=loop_lag_p99_ms,
        generator_lag_p99_ms=quantile([one.lag_ms for one in seen], 0.99),
        other_cpus=other_cpus,
    )


def recovery_s(seen: Sequence[Seen], rose_s: float, fell_s: float) -> float | None:
    """How long after ``fell_s`` answers were as useful as before ``rose_s``: the first moment from which on `_WINDOW`
    requests in a row have a useful share of at most `_AS_BEFORE` less. None: not within what was measured.
    """
    before = [one.useful for one in seen if one.at_s < rose_s]
    after = [one for one in seen if one.at_s >= fell_s]
    goal = sum(before) / len(before) - _AS_BEFORE if before else 0.0
    for first in range(len(after) - _WINDOW + 1):
        if sum(one.useful for one in after[first : first + _WINDOW]) / _WINDOW >= goal:
            return after[first].at_s - fell_s
    return None


def _share(seen: Sequence[Seen], yes: Sequence[bool]) -> float:
    return sum(yes) / len(seen)
