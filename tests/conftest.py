"""Fixtures and settings for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Shared, loaded machines make single examples slow now and then: no deadline per example, few examples, and the same
# ones every time, so that a red run can be repeated.
settings.register_profile(
    "millirank",
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("millirank")
