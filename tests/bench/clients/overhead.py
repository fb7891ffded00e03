"""What a client library adds to a bare stub call."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from tests.bench import processes
from tests.bench.arms import settle
from tests.bench.clients.programs import Program, Took
from tests.bench.connection import connect, quantile
from tests.bench.progress import Steps
from tests.bench.report import Row, Section, Spread


def measure(program: Program, folder: Path, steps: Steps, *, rounds: int, calls: int) -> Section:
    """The program's calls over TCP and over a Unix socket. Raises BenchError."""
    steps.begin(program.name, 3)
    steps.now("building")
    command = program.build(folder)
    steps.done()
    rows: list[Row] = []
    figures: dict[str, float] = {}
    with processes.sidecar(folder, f"for-{program.name}", {}) as sidecar:
        with connect(sidecar.tcp) as connection:
            settle(connection)
        for transport, target in sidecar.targets.items():
            steps.now(f"calling over {transport}")
            for name, took in program.measure(command, target, rounds, calls).items():
                values = _values(took)
                rows.append(Row(f"{name}, {transport}", values))
                if name == program.name:
                    p50, p99 = program.figures(transport)
                    figures[p50] = values["added_p50_ms"].median
                    figures[p99] = values["added_p99_ms"].median
            steps.done()
    return Section(
        title=f"{program.name} client: added to a bare stub call",
        rows=rows,
        figures=figures,
        notes=(
            f"strategy NONE, 100 candidates of 600 bytes; {rounds} rounds of {calls} calls each by stub and client in "
            f"turn, one after the other, after {program.warm_up} that do not count",
            "both make the message, call and get the answer; the client also checks both, keeps the time and the books",
            "p50: median of the rounds (smallest-largest), the difference taken within each; p99: over all rounds",
        ),
    )


def _values(took: Took) -> Mapping[str, Spread]:
    """The median within each round; the 99th percentile over all, as a round holds only a few such calls."""
    stub, client = ([quantile(taken, 0.5) for taken in took[way]] for way in ("stub", "client"))
    stub_p99, client_p99 = (quantile([*itertools.chain(*took[way])], 0.99) for way in ("stub", "client"))
    return {
        "stub_p50_ms": Spread.of(stub),
        "client_p50_ms": Spread.of(client),
        "added_p50_ms": Spread.of([ours - bare for ours, bare in zip(client, stub, strict=True)]),
        "stub_p99_ms": Spread.of([stub_p99]),
        "client_p99_ms": Spread.of([client_p99]),
        "added_p99_ms": Spread.of([client_p99 - stub_p99]),
    }
