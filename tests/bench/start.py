"""How long a start takes: from the process to SERVING, and to models that score."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from grpc_health.v1 import health_pb2

from tests.bench import processes
from tests.bench.arms import settle
from tests.bench.connection import Connection, connect
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Row, Section, Spread

_HEALTH = "/grpc.health.v1.Health/Check"
_TIMEOUT_S = 30.0
_POLL_S = 0.002


def measure(folder: Path, steps: Steps, *, rounds: int = 3) -> Section:
    """``rounds`` starts of the sidecar, one after the other, each beside a start of the echo server.

    Raises BenchError when one does not come up.
    """
    steps.begin("start", rounds)
    serving_s, ready_s, echo_s = [], [], []
    off: tuple[str, ...] = ()
    for number in range(rounds):
        steps.now(f"round {number + 1}")
        with processes.echo_server(folder) as child:
            echo_s.append(time.monotonic() - child.started)
        with processes.sidecar(folder, f"start-{number}", {}) as child, connect(child.tcp) as connection:
            _wait_until_serving(connection)
            serving_s.append(time.monotonic() - child.started)
            off = settle(connection).off
            ready_s.append(time.monotonic() - child.started)
        steps.done()
    serving = Spread.of(serving_s)
    values: Mapping[str, Spread] = {"serving_s": serving}
    if not off:
        values = {**values, "all_models_ready_s": Spread.of(ready_s)}
    return Section(
        title="Start",
        rows=(
            Row("sidecar", values),
            Row("echo server: Python and grpc alone", {"serving_s": Spread.of(echo_s)}),
        ),
        figures={"start_s": serving.median},
        notes=(
            f"{rounds} starts from spawning the process to gRPC health SERVING, and until every model has scored a "
            "request; files in the page cache",
            *(f"switched off: {reason}" for reason in off),
        ),
    )


def _wait_until_serving(connection: Connection) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while True:
        answer = health_pb2.HealthCheckResponse.FromString(connection.call(_HEALTH, b""))
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        if time.monotonic() > end:
            raise BenchError(f"the sidecar is not SERVING after {_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)
