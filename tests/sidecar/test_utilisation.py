"""One number to scale on."""

from __future__ import annotations

import pytest

from sidecar.scheduler import Scheduler, Scheduling
from sidecar.utilisation import Utilisation
from tests.helpers import Clock


class Busy:
    """A worker that has computed as long as it is told."""

    def __init__(self) -> None:
        self.idle = True
        self.computed_ms = 0.0


def test_the_busiest_part_counts() -> None:
    """Two workers of one model, one of them busy, is half; after one half-life half of that is believed."""
    clock, workers, loop_cpu_s = Clock(), [Busy(), Busy()], [0.0]
    utilisation = Utilisation([Scheduler(workers, Scheduling())], lambda: loop_cpu_s[0], clock)
    assert utilisation.current == 0.0
    clock.pass_ms(20_000)
    workers[0].computed_ms += 20_000
    loop_cpu_s[0] += 2.0
    utilisation.look()
    assert utilisation.current == pytest.approx(0.25)  # 0.5 * (1 - 2 ** -1); the loop had 0.1 * 0.5


def test_it_settles_and_falls_again() -> None:
    """A busy event loop alone, too; never above 1, and back to nothing when nothing is done."""
    clock, loop_cpu_s = Clock(), [0.0]
    utilisation = Utilisation([], lambda: loop_cpu_s[0], clock)
    for _ in range(100):
        clock.pass_ms(2_000)
        loop_cpu_s[0] += 2.5
        utilisation.look()
    assert utilisation.current == pytest.approx(1.0, abs=0.01)
    clock.pass_ms(200_000)
    utilisation.look()
    assert utilisation.current == pytest.approx(0.0, abs=0.01)
    utilisation.look()  # no time has passed
    assert utilisation.current == pytest.approx(0.0, abs=0.01)
