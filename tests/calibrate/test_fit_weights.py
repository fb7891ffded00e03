"""Choosing fusion weights, and measuring them on queries that they were not chosen on."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.calibrate.weights import bagged_choice, held_out

GRID = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])


def test_a_row_that_is_best_for_every_query_is_chosen() -> None:
    """Whatever is resampled, the second row wins."""
    values = np.tile([0.1, 0.3, 0.2], (7, 1))
    assert bagged_choice(values, GRID, np.random.default_rng(0)) == 1


def test_two_extremes_that_win_by_turns_give_the_middle() -> None:
    """Half of the queries want one end of the grid and half the other; their mean is the middle, though it is best for
    nobody."""
    values = np.array([[1.0, 0.4, 0.0], [0.0, 0.4, 1.0]] * 20)
    assert bagged_choice(values, GRID, np.random.default_rng(0), resamples=400) == 1
    assert values.mean(axis=0).argmax() != 1


def test_the_first_of_equally_good_rows_counts() -> None:
    """Where nothing differs, the choice does not depend on chance."""
    assert bagged_choice(np.zeros((5, 3)), GRID, np.random.default_rng(0)) == 0


def test_no_query_is_measured_with_weights_that_it_chose() -> None:
    """Each of two queries is alone in its half, so each gets what is best for the other."""
    values = np.array([[[1.0, 0.5, 0.0]], [[0.0, 0.5, 0.7]]])
    assert held_out(values, GRID, [0], np.random.default_rng(0)).tolist() == [[0.0], [0.0]]


def test_what_is_held_out_of_pure_noise_gains_nothing() -> None:
    """The best of 45 rows of noise looks good on its own queries (+0.2 or more) and not on the others."""
    rng = np.random.default_rng(1)
    values, grid = rng.normal(size=(40, 1, 45)), rng.random((45, 3))
    assert values.mean(axis=0).max() > 0.2
    assert abs(held_out(values, grid, [0], rng, redraws=20).mean()) < 0.1


def test_one_query_cannot_be_halved() -> None:
    """It could only be measured on itself."""
    with pytest.raises(ValueError, match="1 queries cannot be halved"):
        held_out(np.zeros((1, 1, 3)), GRID, [0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="no queries"):
        bagged_choice(np.zeros((0, 3)), GRID, np.random.default_rng(0))
