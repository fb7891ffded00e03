"""Moments to answer at: none coincide, none is later than asked for, all are given back."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.answer_slots import AnswerSlots


def test_equal_ends_are_answered_one_after_the_other() -> None:
    """Three requests for 1.0 with 0.1 an answer: at 1.0, 0.9 and 0.8; a fourth one for 1.05 is before those."""
    slots = AnswerSlots(0.1)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(slots.take(1.0, 0.0)) for _ in range(3)]
        assert taken == pytest.approx([1.0, 0.9, 0.8])
        assert stack.enter_context(slots.take(1.05, 0.0)) == pytest.approx(0.7)
        assert stack.enter_context(slots.take(1.2, 0.0)) == pytest.approx(1.2)
    with slots.take(1.0, 0.0) as again:
        assert again == 1.0


def test_no_slot_is_in_the_past() -> None:
    """Where all moments from now on are taken, it is answered at once."""
    slots = AnswerSlots(0.1)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(slots.take(0.25, 0.1)) for _ in range(4)]
    assert taken == pytest.approx([0.25, 0.15, 0.1, 0.1])


@given(st.lists(st.floats(0.0, 10.0), max_size=40))
def test_slots_are_apart_and_never_late(ends: list[float]) -> None:
    """Whatever is asked for: nobody gets a later moment, and moments are a width apart where there is room."""
    slots = AnswerSlots(0.1)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(slots.take(end, -100.0)) for end in ends]
    assert all(slot <= end for slot, end in zip(taken, ends, strict=True))
    ordered = sorted(taken)
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in itertools.pairwise(ordered))
