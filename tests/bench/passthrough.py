"""What a request costs that is not reranked, against a server that does nothing at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from tests.bench import echo_server, processes
from tests.bench.arms import settle
from tests.bench.collector import Collector
from tests.bench.connection import RERANK, Connection, connect, quantile
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Row, Section, Spread

CANDIDATES = 100
CANDIDATE_BYTES = 600
ECHO = "echo of the request"
CANNED = "echo, sidecar-sized answer"
TRACED = "sidecar, telemetry on"
UNTRACED = "sidecar, telemetry off"

_REQUESTS_A_TURN = 10
# The span exporter sends what it has at least this often (OTEL_BSP_SCHEDULE_DELAY's default is 5 s).
_EXPORT_DELAY_S = 5.0
_EXPORT_PATIENCE_S = 5.0


@dataclass(slots=True, eq=False)
class _Series:
    """One server over one transport: what the current round has measured so far, and a figure for each earlier one."""

    name: str
    transport: str
    pid: int
    connection: Connection
    method: str
    taken_ms: list[float] = field(default_factory=list)
    used_ms: float = 0.0
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def end_round(self) -> None:
        self.p50_ms.append(quantile(self.taken_ms, 0.5))
        self.p99_ms.append(quantile(self.taken_ms, 0.99))
        self.cpu_ms.append(self.used_ms / len(self.taken_ms))
        self.taken_ms = []
        self.used_ms = 0.0


class _CpuMeter:
    """Charges a server's CPU time to the series whose turn it is, until the server's next turn: exporting spans
    happens behind the requests."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._read_ms = processes.cpu_ms(pid)
        self._series: _Series | None = None

    def turn(self, series: _Series | None) -> None:
        now_ms = processes.cpu_ms(self._pid)
        if self._series is not None:
            self._series.used_ms += now_ms - self._read_ms
        self._read_ms = now_ms
        self._series = series


def request() -> pb.RerankRequest:
    """`CANDIDATES` candidates of `CANDIDATE_BYTES` bytes each, with strategy NONE."""
    message = pb.RerankRequest(query="how to open a file for reading and writing")
    message.routing.strategy = dpb.STRATEGY_NONE
    for number in range(CANDIDATES):
        text = f"Candidate {number} " + "says what a passage of a manual says about files. " * 20
        message.documents.add(id=f"manual-{number}", text=text[:CANDIDATE_BYTES])
    return message


def measure(folder: Path, steps: Steps, *, rounds: int = 12, requests: int = 200) -> Section:
    """p50 and p99 of ``rounds`` interleaved rounds of ``requests`` sequential requests for every server, after
    a first round that does not count.

    Raises BenchError when a server does not start or does not answer as it should.
    """
    steps.begin("passthrough", rounds + 1)
    steps.now("starting three servers")
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(Collector())
        echo = stack.enter_context(processes.echo_server(folder))
        traced = stack.enter_context(processes.sidecar(folder, "traced", collector.environment))
        untraced = stack.enter_context(processes.sidecar(folder, "untraced", {}))
        servers = (
            (ECHO, echo, echo_server.ECHO),
            (TRACED, traced, RERANK),
            (CANNED, echo, echo_server.CANNED),
            (UNTRACED, untraced, RERANK),
        )
        series = [
            _Series(
                name, transport, server.process.pid, stack.enter_context(connect(server.targets[transport])), method
            )
            for transport in ("tcp", "unix")
            for name, server, method in servers
        ]
        data = request().SerializeToString()
        answer = _prepare(series, data)
        steps.now("warming up")
        for one in series:
            one.connection.latencies_ms(one.method, data, requests)
        steps.done()
        for number in range(rounds):
            steps.now(f"round {number + 1}")
            _round(series, data, requests)
            steps.done()
        exported = _share_exported(collector, series, (1 + rounds) * requests)
    return _section(series, rounds, requests, len(data), len(answer), exported)


def _round(series: Sequence[_Series], data: bytes, requests: int) -> None:
    """``requests`` for each series, a few at a turn, there and back: what else the machine does weighs on all alike."""
    meters = {one.pid: _CpuMeter(one.pid) for one in series}
    for turn, first in enumerate(range(0, requests, _REQUESTS_A_TURN)):
        for one in series if turn % 2 == 0 else reversed(series):
            meters[one.pid].turn(one)
            count = min(_REQUESTS_A_TURN, requests - first)
            one.taken_ms += one.connection.latencies_ms(one.method, data, count)
    for meter in meters.values():
        meter.turn(None)
    for one in series:
        one.end_round()


def _prepare(series: Sequence[_Series], data: bytes) -> bytes:
    """Check that every server answers as it should, and teach the echo server the sidecar's answer."""
    answer = b""
    for one in series:
        if one.method == RERANK:
            settle(one.connection)
            answer = one.connection.call(RERANK, data)
            _check(pb.RerankResponse.FromString(answer))
    for one in series:
        if one.method == echo_server.CANNED:
            one.connection.call(echo_server.LOAD, answer)
        expected = {echo_server.ECHO: data, echo_server.CANNED: answer}.get(one.method)
        if expected is not None and one.connection.call(one.method, data) != expected:
            raise BenchError(f"{one.name} over {one.transport} did not answer with the expected bytes")
    return answer


def _check(answer: pb.RerankResponse) -> None:
    if answer.decision.strategy != dpb.STRATEGY_NONE or [one.index for one in answer.results] != list(
        range(CANDIDATES)
    ):
        raise BenchError(f"the sidecar did not pass the candidates through: {answer.decision}")


def _share_exported(collector: Collector, series: Sequence[_Series], requests: int) -> float:
    """Share of the traced requests whose span came in; the last batch may be held back for a while."""
    sent = requests * sum(one.name == TRACED for one in series)
    end = time.monotonic() + _EXPORT_DELAY_S + _EXPORT_PATIENCE_S
    # More than were measured may come in: the few calls before the warm-up are traced too.
    while (spans := min(sent, collector.server_spans())) < sent and time.monotonic() < end:
        time.sleep(0.2)
    return spans / sent


def _section(
    series: Sequence[_Series], rounds: int, requests: int, sent: int, received: int, exported: float
) -> Section:
    echo = {one.transport: one for one in series if one.name == ECHO}
    canned = {one.transport: one for one in series if one.name == CANNED}
    rows = []
    for one in series:
        values = {
            "p50_ms": Spread.of(one.p50_ms),
            "p99_ms": Spread.of(one.p99_ms),
            "cpu_ms": Spread.of(one.cpu_ms),
        }
        if one.method == RERANK:
            values["x_echo_p50"] = _ratio(one.p50_ms, echo[one.transport].p50_ms)
            values["x_echo_p99"] = _ratio(one.p99_ms, echo[one.transport].p99_ms)
            values["x_same_size_p50"] = _ratio(one.p50_ms, canned[one.transport].p50_ms)
        rows.append(Row(f"{one.name}, {one.transport}", values))
    headline = next(one for one in series if one.name == TRACED and one.transport == "tcp")
    return Section(
        title=f"Passthrough: strategy NONE, {CANDIDATES} candidates of {CANDIDATE_BYTES} bytes",
        rows=rows,
        figures={
            "passthrough_x_echo_p50": _ratio(headline.p50_ms, echo["tcp"].p50_ms).median,
            "passthrough_x_echo_p99": _ratio(headline.p99_ms, echo["tcp"].p99_ms).median,
        },
        notes=(
            f"{rounds} rounds of {requests} sequential requests for each row, {_REQUESTS_A_TURN} at a turn, after one "
            "that does not count; median of the rounds (smallest-largest)",
            "one blocking grpc connection for each row, the same raw bytes for every server: "
            f"{sent:,} bytes out; back come {sent:,} from the echo, {received:,} from the others",
            "a ratio is taken within each round; cpu_ms: CPU time of the server process for each request",
            "telemetry on: traces and metrics by OTLP to a real receiver, "
            f"which got the spans of {exported:.1%} of the requests",
        ),
    )


def _ratio(mine: Sequence[float], base: Sequence[float]) -> Spread:
    return Spread.of([one / other for one, other in zip(mine, base, strict=True)])
