"""Fixtures and settings for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Helpers import these before a test module names them in its `pytest_plugins`.
pytest.register_assert_rewrite(
    "tests.rerankers.checkpoints", "tests.rerankers.indexes", "tests.rerankers.silence", "tests.sidecar.workers"
)

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
