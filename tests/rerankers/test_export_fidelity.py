"""How an exported model is compared with its original: differences, order and pace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")

from sidecar.engines.export.fidelity import compare, kendall_tau, paces


def test_kendall_tau_by_hand() -> None:
    """One swap among three is (2 - 1) / 3; a tie on one side weighs sqrt; nothing to disagree about is 1."""
    one, two = np.array([1, 2, 3], np.float32), np.array([1, 3, 2], np.float32)
    assert kendall_tau(one, one) == 1
    assert kendall_tau(one, -one) == -1
    assert kendall_tau(one, two) == pytest.approx(1 / 3)
    assert kendall_tau(one, np.array([1, 1, 2], np.float32)) == pytest.approx(2 / np.sqrt(3 * 2))
    assert kendall_tau(one[:1], two[:1]) == 1
    assert kendall_tau(one, np.zeros(3, np.float32)) == 0


def test_fidelity_by_hand() -> None:
    """Differences over all pairs, tau within each query."""
    expected = [np.array([0, 1], np.float32), np.array([4, 2], np.float32)]
    fidelity = compare(expected, [np.array([0, 1.5], np.float32), np.array([1, 2], np.float32)])
    assert (fidelity.pairs, fidelity.largest, fidelity.mean, fidelity.tau) == (4, 3, 0.875, 0)


def test_paces_take_the_best_round() -> None:
    """Every run counts its own pairs, warmed up first."""
    calls: list[str] = []

    def run(name: str, pairs: int) -> Callable[[], int]:
        def counted() -> int:
            calls.append(name)
            return pairs

        return counted

    found = paces({"a": run("a", 2), "b": run("b", 3)}, seconds=0)
    assert calls == ["a", "b", "a", "b", "a", "b"], "interleaved, after one that does not count"
    assert set(found) == {"a", "b"}
    assert min(found.values()) > 0
