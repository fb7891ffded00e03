"""How many requests of each kind a given time has room for, and in which order they are sent. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


def affordable(costs: Sequence[float], requests: int, left_s: float | None, fewest: int) -> list[int]:
    """Requests of every cell, one of which takes ``costs[i]`` seconds, so that all together take ``left_s``.

    Every cell gets ``requests``, if time allows (None: any amount). If not, there is a time that no cell may exceed,
    the largest for which the sum fits: cheap cells keep all their requests, dear ones get fewer, but ``fewest`` at
    least, even where that takes longer.
    """
    if left_s is None or requests * sum(costs) <= left_s:
        return [requests] * len(costs)
    share, open_cells, left = 0.0, sorted(costs), left_s
    while open_cells:
        share = max(0.0, left) / len(open_cells)
        if requests * open_cells[0] > share:
            break  # nobody who is left gets all of its requests
        left -= requests * open_cells.pop(0)
    least = min(fewest, requests)
    return [min(requests, max(least, int(share / cost))) if requests * cost > share else requests for cost in costs]


def spread(plan: Sequence[int]) -> list[list[int]]:
    """Rounds of cells, so that cell i is in ``plan[i]`` of them, as evenly as possible from the first to the last."""
    rounds = max(plan, default=0)
    return [
        [cell for cell, count in enumerate(plan) if (turn + 1) * count // rounds > turn * count // rounds]
        for turn in range(rounds)
    ]
