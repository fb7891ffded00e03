"""Every reader, with a few hundred damaged inputs each and with what longer runs of `make fuzz` have found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.damage import damaged
from tests.fuzz.findings import FINDINGS
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@every_target
def test_seeds_are_good_input(target: Target) -> None:
    """Otherwise nothing but refusals would be tested."""
    assert any(target.probe(seed) for seed in target.seeds)


@pytest.mark.parametrize(("target", "data"), FINDINGS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(FINDINGS)])
def test_findings(target: str, data: bytes) -> None:
    """What a reader did not take well once: it is refused with its own error."""
    assert not TARGETS[target].probe(data)


@every_target
def test_damaged_input(target: Target) -> None:
    """Taken, or refused with the reader's own error; and both happen."""
    taken = [target.probe(data) for data in damaged(target.seeds, 100, seed=1)]
    assert not all(taken) or not target.refused


@every_target
@settings(max_examples=30)
@given(data=st.binary(max_size=200))
def test_any_bytes(target: Target, data: bytes) -> None:
    """The same for bytes that have nothing in common with good input."""
    target.probe(data)
