"""``python -m tests.bench.soak``: load with cancellations and reloads, then restarts; says what grows or is lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from millirank import AsyncClient, Outcome
from rich.console import Console

from tests.bench import processes
from tests.bench.arms import settle
from tests.bench.command import EXIT_FAILURE, carry_out
from tests.bench.connection import connect
from tests.bench.load.traffic import BUDGETS_MS, Arrival, Rate, Traffic
from tests.bench.progress import Steps
from tests.bench.report import BenchError
from tests.bench.soak.vitals import Vitals, complaints, growth, look

_BUILT_IN_PROFILE = processes.ROOT / "sidecar" / "builtin_profile.json"
_PER_S = 15.0
_CANCELLED = 0.3
_LOOK_S, _RELOAD_S, _LIFE_S = 1.0, 5.0, 8.0
_RESTART_SHARE = 0.3  # of the time
_PATIENT_MS = 3000.0  # what is under way when a sidecar is told to end has time to be answered
# What is kept on purpose is full within seconds, so that what still grows is a leak.
_SMALL = {
    "MILLIRANK_CACHE__RESULTS_BYTES": "1000000",
    "MILLIRANK_CACHE__PAIRS_BYTES": "1000000",
    "MILLIRANK_RERANKERS__MINILM_L6__VECTOR_BYTES": "4000000",
}


class Soak:
    """Counts what became of the calls. ``lost`` are calls that were under way when a sidecar was told to end, and got
    no answer of its."""

    def __init__(self, folder: Path, steps: Steps) -> None:
        self._folder = folder
        self._steps = steps
        self._traffic = Traffic()
        self._source = random.Random(1)
        self._profile = folder / "profile.json"
        self._profile.write_bytes(_BUILT_IN_PROFILE.read_bytes())
        self._number = 0
        self.seen: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  # why the client made its own ordering
        self.samples: list[Vitals] = []
        self.late = self.lost = self.restarts = self.reloads = 0

    def long_life(self, seconds: float) -> None:
        """One sidecar under load: a third of the calls is cancelled, its profile changes again and again."""
        self._steps.begin("one long life", 1)
        with self._sidecar() as child:
            asyncio.run(self._load(child, seconds))
        self._steps.done()

    def short_lives(self, seconds: float) -> None:
        """One sidecar after the other, each told to end while calls are under way."""
        lives = max(1, round(seconds / _LIFE_S))
        self._steps.begin("restarts", lives)
        for _ in range(lives):
            with self._sidecar() as child:
                asyncio.run(self._end_under_load(child))
            self.restarts += 1
            self._steps.done()

    @contextlib.contextmanager
    def _sidecar(self) -> Iterator[processes.Child]:
        self._number += 1
        settings = {
            "MILLIRANK_PROFILES": json.dumps([str(self._profile)]),
            **_SMALL,
        }
        with processes.sidecar(self._folder, f"soak-{self._number}", settings) as child:
            with connect(child.tcp) as connection:
                settle(connection)
            yield child

    async def _load(self, child: processes.Child, seconds: float) -> None:
        async with AsyncClient(child.tcp) as client:
            arrivals = self._traffic.arrivals([Rate(_PER_S, seconds)], seed=self._number)
            looking = asyncio.create_task(self._look(child.process.pid))
            reloading = asyncio.create_task(self._reload())
            began = time.monotonic()
            calls = set()
            for arrival in arrivals:
                await asyncio.sleep(max(0.0, began + arrival.at_s - time.monotonic()))
                call = asyncio.create_task(self._call(client, arrival))
                calls.add(call)
                call.add_done_callback(calls.discard)
                if self._source.random() < _CANCELLED:
                    asyncio.get_running_loop().call_later(self._source.uniform(0.0, 0.1), call.cancel)
                self._steps.at(arrival.at_s)
            await asyncio.gather(*calls, return_exceptions=True)
            for task in (looking, reloading):
                task.cancel()
            done = await asyncio.gather(looking, reloading, return_exceptions=True)
            for result in done:
                if isinstance(result, Exception):
                    raise result

    async def _end_under_load(self, child: processes.Child) -> None:
        """SIGTERM with calls under way: each of those gets the sidecar's own answer.

        Twenty calls at once may be answered a little late, so the client listens longer than its budget.
        """
        async with AsyncClient(child.tcp, slack_ms=_PATIENT_MS) as client:
            await client.wait_until_ready()
            arrivals = self._traffic.arrivals([Rate(2 * _PER_S, 2.0)], seed=self._number, budgets_ms=(_PATIENT_MS,))
            accepted = [asyncio.create_task(self._call(client, arrival)) for arrival in arrivals[:20]]
            await asyncio.sleep(0.05)  # they are on the wire
            child.process.send_signal(signal.SIGTERM)
            kinds = await asyncio.gather(*accepted)
            code = await asyncio.to_thread(child.process.wait, 20.0)
            late = client.stats.late
            self.late += late
            self.lost += sum(kind in ("fallback", "error") for kind in kinds) - late
            if code != 0:
                raise BenchError(f"the sidecar ended with exit code {code} after SIGTERM")

    async def _call(self, client: AsyncClient, arrival: Arrival) -> str:
        kind = "error"
        try:
            ranking = await client.rerank(arrival.query, arrival.documents, budget_ms=arrival.budget_ms)
            kind = "fallback" if ranking.fallback else _KINDS[ranking.outcome]
            if ranking.fallback:
                self.reasons.update(reason.value for reason in ranking.reasons)
        except asyncio.CancelledError:
            kind = "cancelled"
            raise
        finally:
            self.seen[kind] += 1
        return kind

    async def _look(self, pid: int) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.samples.append(await asyncio.to_thread(look, pid))

    async def _reload(self) -> None:
        """A profile that decides as before, but is another one."""
        while True:
            await asyncio.sleep(_RELOAD_S)
            profile = json.loads(self._profile.read_text(encoding="utf-8"))
            profile["about"]["soak"] = str(self.reloads)
            changed = self._profile.with_suffix(".new")
            changed.write_text(json.dumps(profile), encoding="utf-8")
            changed.replace(self._profile)
            self.reloads += 1


_KINDS = {Outcome.RANKED: "full", Outcome.PARTIAL: "partial", Outcome.FIRST_STAGE: "first stage"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when nothing grows and nothing is lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.soak",
        description=f"{_PER_S:g} requests/s with budgets of {', '.join(f'{ms:g}' for ms in BUDGETS_MS)} ms for some "
        f"minutes, {_CANCELLED:.0%} of them cancelled, a profile reloaded every {_RELOAD_S:g} s, and for the last "
        f"{_RESTART_SHARE:.0%} of the time restarts under load. Nothing may grow, nothing may be lost.",
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="how long it takes (default: %(default)g)")
    parsed = parser.parse_args(arguments)
    return carry_out(functools.partial(_soak, parsed.minutes))


def _soak(minutes: float, console: Console) -> int:
    seconds = 60.0 * minutes
    with tempfile.TemporaryDirectory(prefix="millirank-soak-") as folder, Steps(console) as steps:
        soak = Soak(Path(folder), steps)
        soak.long_life((1 - _RESTART_SHARE) * seconds)
        soak.short_lives(_RESTART_SHARE * seconds)
    return _conclude(console, soak)


def _conclude(console: Console, soak: Soak) -> int:
    grown, last = growth(soak.samples), soak.samples[-1]
    console.print(f"calls: {dict(soak.seen)}; fallbacks for {dict(soak.reasons)}", highlight=False)
    console.print(f"reloads: {soak.reloads}; restarts: {soak.restarts}, {soak.late} answers late", highlight=False)
    console.print(f"at the end: {last}; grown since it had settled: {grown}", highlight=False)
    said = complaints(soak.samples)
    if soak.lost:
        said.append(f"{soak.lost} accepted calls were not answered by the sidecar that was told to end")
    if soak.seen["error"]:
        said.append(f"{soak.seen['error']} calls failed")
    console.print("; ".join(said) or "nothing grows, nothing is lost", highlight=False)
    return EXIT_FAILURE if said else 0


if __name__ == "__main__":
    raise SystemExit(main())
