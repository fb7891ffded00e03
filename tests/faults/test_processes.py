"""Processes that stop, die or are starved: the workers, the sidecar itself, the machine's processors."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from millirank import Outcome, Reason

from tests.e2e.sidecar_process import SidecarProcess
from tests.faults.watched import QUERY, ROOMY_MS, TOLERANCE_MS, Watched, until, watched

BUDGET_MS = 300.0
# One worker, as one that nobody asks anything is not found to be frozen; with less patience than the default's 5 s.
IMPATIENT = {
    "MILLIRANK_RERANKERS__MINILM_L6__CHUNK_HARD_LIMIT_S": "1.5",
    "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "false",
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_workers_that_die_or_freeze(number: signal.Signals) -> None:
    """Invariants 2 and 6: answers stay in time, say that they are less than planned, and the workers are replaced."""
    with watched(IMPATIENT) as running:
        assert running.ask().outcome is Outcome.RANKED
        gone = set(running.workers)
        for pid in gone:
            os.kill(pid, number)
        answers = [running.ask(budget_ms=BUDGET_MS) for _ in range(10)]
        assert any(answer.reasons for answer in answers), "nothing was said of it"
        until(lambda: running.ask().outcome is Outcome.RANKED, "the workers are replaced")
        until(lambda: not gone & set(running.workers), "the old ones are gone")
        running.settled()


def test_worker_that_runs_out_of_memory() -> None:
    """Invariants 2 and 10: a worker that may not allocate any more (the kernel's limit that ``memory_bytes`` sets,
    drawn in while it runs) costs an answer its scores, with the reason; sidecar and memory stay as they were."""
    long = [f"Passage {number}: " + f"words of many kinds, {number} of them, " * 40 for number in range(24)]
    with watched(IMPATIENT) as running:
        (worker,) = running.workers
        before = resource.prlimit(worker, resource.RLIMIT_DATA)
        resource.prlimit(worker, resource.RLIMIT_DATA, (2**20, before[1]))
        # Forced: whether long documents are worth their time depends on the machine.
        starved = running.client.rerank(QUERY, long, budget_ms=ROOMY_MS, reranker="minilm-l6", use_cache=False)
        assert sorted(ranked.index for ranked in starved) == list(range(24))
        assert not starved.fallback
        assert set(starved.reasons) == {Reason.BACKEND_ERROR}, starved.degradations
        if _runs(worker):
            resource.prlimit(worker, resource.RLIMIT_DATA, before)
        until(lambda: running.ask().outcome is Outcome.RANKED, "it ranks again")
        running.settled()


def test_frozen_sidecar_and_back() -> None:
    """Invariant 1: SIGSTOP costs the callers their budget and nothing else; after SIGCONT the same connection ranks."""
    with watched() as running:
        running.sidecar.signal(signal.SIGSTOP)
        for _ in range(5):
            frozen = running.ask(budget_ms=50.0)
            assert (frozen.outcome, frozen.reasons) == (Outcome.FIRST_STAGE, (Reason.SIDECAR_TIMEOUT,))
        running.sidecar.signal(signal.SIGCONT)
        running.settled()


def test_killed_sidecar_and_its_successor() -> None:
    """Invariant 1: SIGKILL is a fallback at once, without waiting for the budget, and no worker outlives it; the next
    sidecar on the port is found without a new client."""
    with watched() as running:
        address = running.sidecar.addresses[0]
        workers = running.workers
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.exit_code()
        started = time.monotonic()
        answer = running.ask()
        assert (answer.outcome, answer.fallback) == (Outcome.FIRST_STAGE, True)
        assert (time.monotonic() - started) * 1e3 < ROOMY_MS / 4
        until(lambda: not any(_runs(pid) for pid in workers), "the workers end with their parent")
        with SidecarProcess({"MILLIRANK_LISTEN__TCP": address}) as successor:
            assert successor.addresses == [address]
            until(lambda: running.ask(budget_ms=1000.0).outcome is Outcome.RANKED, "the successor ranks")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def _stolen_processors() -> Iterator[None]:
    """Twice as many busy processes as there are processors, none of them nice."""
    thieves = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for thief in thieves:
            thief.kill()
            thief.wait()


def test_stolen_processors(shared: Watched) -> None:
    """A neighbour takes most of the machine: calls are still answered at their budgets, and afterwards as before."""
    with _stolen_processors():
        over = [_overrun_ms(shared, budget_ms) for budget_ms in (30.0, 100.0, 300.0) * 10]
    assert sorted(over)[len(over) // 2] <= 5.0, "half of the answers, with a third of a processor left"
    assert max(over) <= TOLERANCE_MS
    shared.settled()


def _overrun_ms(shared: Watched, budget_ms: float) -> float:
    started = time.monotonic()
    shared.ask(budget_ms=budget_ms)
    return (time.monotonic() - started) * 1e3 - budget_ms
