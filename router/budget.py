"""How many milliseconds one request may spend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What the router can spend, in ms, and which limit set it: ``request``, ``deadline`` or ``default``."""

    spendable_ms: float
    limited_by: str


def spendable(request_ms: float | None, deadline_left_ms: float | None, default_ms: float, reserve_ms: float) -> Budget:
    """min(request budget, deadline left) - reserve, never below 0 (all in ms).

    Without a request budget ``default_ms`` takes its place. An expired deadline (zero or negative) leaves 0.
    On a tie the caller's explicit wish is named before the deadline. Raises ValueError if the request's
    budget, the default or the reserve is negative or not a number.
    """
    for name, value in (("request_ms", request_ms), ("default_ms", default_ms), ("reserve_ms", reserve_ms)):
        if value is not None and not value >= 0.0:  # also refuses NaN, which compares false with everything
            raise ValueError(f"{name} must be zero or more milliseconds, got {value}")
    limit, limited_by = (default_ms, "default") if request_ms is None else (request_ms, "request")
    if deadline_left_ms is not None and not deadline_left_ms >= limit:
        limit, limited_by = deadline_left_ms, "deadline"
    # max(0.0, nan) is 0.0: a deadline that cannot be read spends nothing rather than everything.
    return Budget(max(0.0, limit - reserve_ms), limited_by)
