"""``millirank serve`` as a process: start, sockets, ports, signals, drain."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import time
import urllib.request
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from millirank.v1 import rerank_service_pb2 as pb

from tests.e2e.llm_arm import HeldOpenAI, llm_settings, until_ready
from tests.e2e.rpc import TIMEOUT_S, connected, failure_of, message, order_of, reasons_of
from tests.e2e.sidecar_process import NO_MODELS, PATIENCE_S, SidecarProcess, millirank

TEXTS = ("blue", "red green", "red")


# --- start -----------------------------------------------------------------------------------------------------------


def health_of(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S, wait_for_ready=True).status


def test_serves_over_tcp_and_private_socket_until_sigterm(tmp_path: Path) -> None:
    """Invariants 8 and 14: both listeners work, the socket is private, SIGTERM ends with 0 and leaves no socket;
    every line of the log is JSON."""
    path = tmp_path / "run" / "m.sock"
    with SidecarProcess({**NO_MODELS, "MILLIRANK_LISTEN__UNIX": str(path), "MILLIRANK_LINGER_S": "0"}) as sidecar:
        tcp, unix = sidecar.addresses
        assert unix == f"unix:{path}"
        assert health_of(tcp) == health_of(unix) == health_pb2.HealthCheckResponse.SERVING
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o770
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit_code() == 0
        assert not path.exists()
        assert [entry["message"] for entry in sidecar.logs] == ["serving", "draining", "stopped"]
        assert all(line.startswith("{") for line in sidecar.output.splitlines())


def test_second_signal_ends_at_once() -> None:
    """Who presses Ctrl-C twice does not wait for the drain: the process ends by the signal, which shells show as
    130, without a traceback."""
    with SidecarProcess({**NO_MODELS, "MILLIRANK_LINGER_S": "600"}) as sidecar:
        assert sidecar.addresses
        sidecar.signal(signal.SIGINT)
        sidecar.wait_for_log("draining")
        sidecar.signal(signal.SIGINT)
        assert sidecar.exit_code() == -signal.SIGINT
        assert "Traceback" not in sidecar.output


def test_socket_of_a_killed_sidecar_is_replaced(tmp_path: Path) -> None:
    """After SIGKILL the socket stays behind; the next sidecar takes its place."""
    path = tmp_path / "m.sock"
    variables = {**NO_MODELS, "MILLIRANK_LISTEN__TCP": "", "MILLIRANK_LISTEN__UNIX": str(path)}
    with SidecarProcess(variables) as first:
        assert first.addresses == [f"unix:{path}"]
        first.signal(signal.SIGKILL)
        assert first.exit_code() == -signal.SIGKILL
    assert path.exists()
    with SidecarProcess(variables) as second:
        assert health_of(second.addresses[0]) == health_pb2.HealthCheckResponse.SERVING


# --- drain -----------------------------------------------------------------------------------------------------------


async def test_drain_answers_what_was_accepted(tmp_path: Path) -> None:
    """Invariant 8: on SIGTERM health turns NOT_SERVING, the call in flight is answered in full, a new one while it
    lingers gets first-stage order with DRAINING, and the process ends with 0 within linger and drain."""
    linger_s, drain_s = 2.0, 30.0
    async with HeldOpenAI() as server:
        variables = llm_settings(server, tmp_path) | {
            "MILLIRANK_LINGER_S": str(linger_s),
            "MILLIRANK_DRAIN_S": str(drain_s),
        }
        with SidecarProcess(variables) as sidecar:
            (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
            async with connected(address) as stub, grpc.aio.insecure_channel(address) as channel:
                await until_ready(stub)
                sent = message(*TEXTS, budget_ms=60_000.0)
                accepted = asyncio.ensure_future(stub.Rerank(sent, timeout=PATIENCE_S))
                await server.asked.wait()
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                signalled = time.monotonic()
                sidecar.signal(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                watch.cancel()
                late = await stub.Rerank(message(*TEXTS, tenant="late", budget_ms=60_000.0), timeout=TIMEOUT_S)
                assert (order_of(late), reasons_of(late)) == ([0, 1, 2], ["DRAINING"])
                server.release.set()
                response = await accepted
                assert order_of(response) == [1, 2, 0]
                assert response.completeness == pb.COMPLETENESS_FULL
                assert await asyncio.to_thread(sidecar.exit_code) == 0
                assert time.monotonic() - signalled < linger_s + drain_s
                assert "Traceback" not in sidecar.output


async def test_drain_does_not_wait_for_ever(tmp_path: Path) -> None:
    """Invariant 8: a call whose backend never answers is given up after drain_s, and the process still ends with 0;
    Ctrl-C is a request to stop like SIGTERM. The bound is far above drain_s because the machine may be loaded,
    and far below the call's own time."""
    async with HeldOpenAI() as server:
        variables = llm_settings(server, tmp_path) | {"MILLIRANK_LINGER_S": "0", "MILLIRANK_DRAIN_S": "0.2"}
        with SidecarProcess(variables) as sidecar:
            (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
            async with connected(address) as stub:
                await until_ready(stub)
                call = asyncio.ensure_future(stub.Rerank(message(*TEXTS, budget_ms=50_000.0), timeout=PATIENCE_S))
                await server.asked.wait()
                signalled = time.monotonic()
                sidecar.signal(signal.SIGINT)
                assert await asyncio.to_thread(sidecar.exit_code) == 0
                assert time.monotonic() - signalled < 20.0
                assert (await failure_of(call)).code in {"UNAVAILABLE", "CANCELLED"}
        server.release.set()


# --- what is in the way ----------------------------------------------------------------------------------------------


def refused(**variables: str) -> str:
    """stderr of a `serve` that must end with 2 and without a traceback."""
    ended = millirank("serve", variables={"MILLIRANK_LISTEN__TCP": "127.0.0.1:0", **NO_MODELS, **variables})
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    return ended.stderr


def test_port_in_use() -> None:
    """The second sidecar on a port names setting and port, and ends with 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"listen.tcp: {address} can't be opened" in refused(MILLIRANK_LISTEN__TCP=address)


def test_socket_that_is_a_file(tmp_path: Path) -> None:
    """A regular file at the socket's path stays, and TCP, opened before, is given up as well."""
    path = tmp_path / "m.sock"
    path.write_text("precious")
    assert "exists and is not a socket" in refused(MILLIRANK_LISTEN__UNIX=str(path))
    assert path.read_text() == "precious"


def test_http_listener_of_a_process() -> None:
    """`listen.http` opens the endpoint in the running sidecar, says so in its log, and ends with it."""
    with SidecarProcess({**NO_MODELS, "MILLIRANK_LISTEN__HTTP": "127.0.0.1:0"}) as sidecar:
        url = "http://" + sidecar.wait_for_log("serving HTTP")["address"]
        assert sidecar.addresses
        body = json.dumps({"model": "any", "query": "red", "documents": ["blue", "red"]}).encode()
        with urllib.request.urlopen(f"{url}/v2/rerank", body, timeout=TIMEOUT_S) as answer:  # noqa: S310
            assert [result["index"] for result in json.load(answer)["results"]] == [0, 1]
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit_code() == 0


def test_http_port_in_use() -> None:
    """The message names setting and port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"listen.http: {address} can't be opened" in refused(MILLIRANK_LISTEN__HTTP=address)
