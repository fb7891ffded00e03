"""``listen.health``, the listener for probes, and ``millirank health``, which asks it or any other."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from millirank import Client, Verdict
from millirank.v1 import rerank_service_pb2_grpc as pb_grpc

from sidecar import embedded
from tests.e2e.rpc import TIMEOUT_S, message
from tests.e2e.sidecar_process import NO_MODELS, SidecarProcess, millirank

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ANY_PORT = {**NO_MODELS, "MILLIRANK_LISTEN__HEALTH": "127.0.0.1:0"}


def health_address(sidecar: SidecarProcess) -> str:
    return str(sidecar.wait_for_log("health")["address"])


def test_it_answers_health_and_nothing_else() -> None:
    """Health of the process and of the service by name; the service itself is not to be had there."""
    with SidecarProcess(ANY_PORT) as sidecar, grpc.insecure_channel(health_address(sidecar)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "millirank.v1.RerankService"):
            assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.RerankServiceStub(channel).Rerank(message("a"), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_it_serves_while_a_model_never_loads(tmp_path: Path) -> None:
    """What can be answered without a model is enough: a probe passes although a model is still read from a file that
    never comes to its end."""
    for name in ("model.json", "tokenizer.json"):
        shutil.copy(Path(embedded.__file__).parent / "minilm-l6" / name, tmp_path)
    os.mkfifo(tmp_path / "model.onnx")
    variables = {
        "MILLIRANK_LISTEN__HEALTH": "127.0.0.1:0",
        "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "false",
        "MILLIRANK_RERANKERS__MINILM_L6__MODEL": str(tmp_path),
    }
    with SidecarProcess(variables) as sidecar:
        # Opening it waits for the other side, which is the worker that loads the model.
        with (tmp_path / "model.onnx").open("wb"):
            assert millirank("health", "--target", health_address(sidecar)).returncode == 0
            with Client(sidecar.addresses[0]) as client:
                decision = client.explain("q", ["a", "b"], budget_ms=60_000, timeout_ms=10_000)
        assert {arm.verdict for arm in decision.considered if arm.reranker == "minilm-l6"} == {Verdict.NOT_READY}


def test_it_says_when_the_sidecar_drains() -> None:
    """After SIGTERM a probe fails for as long as the process lingers, so that no new connection is sent to it."""
    with (
        SidecarProcess({**ANY_PORT, "MILLIRANK_LINGER_S": "600"}) as sidecar,
        grpc.insecure_channel(health_address(sidecar)) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == SERVING
        sidecar.signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING


def test_it_asks_for_no_certificate(tmp_path: Path) -> None:
    """Beside a listener that wants client certificates, a kubelet without one still learns whether it serves."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    tls = {"CERTIFICATE": "server.pem", "KEY": "server.pem", "CLIENT_CA": "ca.pem"}
    variables = {f"MILLIRANK_LISTEN__TLS__{name}": str(tmp_path / file) for name, file in tls.items()}
    with SidecarProcess({**ANY_PORT, **variables}) as sidecar:
        (secured,) = sidecar.addresses
        assert millirank("health", "--target", secured).returncode == 1
        assert millirank("health", "--target", health_address(sidecar)).returncode == 0


def test_a_port_in_use_is_named() -> None:
    """The setting that can't be opened is named, and nothing serves."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        variables = {**NO_MODELS, "MILLIRANK_LISTEN__TCP": "127.0.0.1:0", "MILLIRANK_LISTEN__HEALTH": address}
        ended = millirank("serve", variables=variables)
    assert ended.returncode == 2
    assert f"listen.health: {address} can't be opened" in ended.stderr


def test_the_command_asks_where_its_environment_says(tmp_path: Path) -> None:
    """Without --target the settings say whom to ask: a container's health check has the sidecar's environment, and
    works for a sidecar that only has a socket."""
    variables = {
        **NO_MODELS,
        "MILLIRANK_LISTEN__TCP": "",
        "MILLIRANK_LISTEN__UNIX": str(tmp_path / "m.sock"),
    }
    with SidecarProcess(variables) as sidecar:
        assert sidecar.addresses == [f"unix:{tmp_path / 'm.sock'}"]
        ended = millirank("health", variables=variables)
        assert (ended.returncode, ended.stdout) == (0, f"unix:{tmp_path / 'm.sock'}: SERVING\n")


def test_the_command_refuses_settings_that_are_none() -> None:
    """A setting that does not exist is said, with exit code 2: it is the check that is wrong, not the sidecar."""
    ended = millirank("health", variables={"MILLIRANK_LISTEN__HEALHT": "127.0.0.1:1"})
    assert ended.returncode == 2
    assert "listen.health" in ended.stderr
