"""What one request may spend."""

from __future__ import annotations

import math

import pytest

from router.budget import Budget, spendable


@pytest.mark.parametrize(
    ("request_ms", "deadline_ms", "expected"),
    [
        (50.0, None, Budget(47.0, "request")),
        (50.0, 30.0, Budget(27.0, "deadline")),
        (50.0, 50.0, Budget(47.0, "request")),
        (None, None, Budget(97.0, "default")),
        (None, 500.0, Budget(97.0, "default")),
        (None, 20.0, Budget(17.0, "deadline")),
        (0.0, 30.0, Budget(0.0, "request")),
        (2.0, None, Budget(0.0, "request")),
        (50.0, -5.0, Budget(0.0, "deadline")),
        (50.0, math.nan, Budget(0.0, "deadline")),  # unreadable must not mean unlimited
    ],
)
def test_the_smaller_limit_wins_less_the_reserve(
    request_ms: float | None, deadline_ms: float | None, expected: Budget
) -> None:
    """min(request or 100 ms, deadline) - 3 ms, never below 0, and the limit that decided is named."""
    assert spendable(request_ms, deadline_ms, default_ms=100.0, reserve_ms=3.0) == expected


@pytest.mark.parametrize("request_ms", [-0.001, math.nan])
def test_refuses_a_negative_budget(request_ms: float) -> None:
    """Negative or NaN is the caller's mistake, not a zero budget."""
    with pytest.raises(ValueError, match="request_ms must be zero or more"):
        spendable(request_ms, None, 100.0, 3.0)
