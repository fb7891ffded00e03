"""The chart's sidecar, included in the pod of another chart: deploy/examples/go-search/chart."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest
from millirank import Client

from sidecar.settings import load
from tests.deploy.kubernetes import (
    CHART,
    REPOSITORY,
    Manifest,
    container_of,
    environment_of,
    only,
    pod_of,
    rendered,
    run,
    search_chart,
)
from tests.e2e.sidecar_process import NO_MODELS, SidecarProcess, millirank


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search_chart(tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="module")
def manifests(chart: Path) -> list[Manifest]:
    return rendered(chart)


@pytest.fixture(scope="module")
def sidecar(manifests: list[Manifest]) -> Manifest:
    return container_of(manifests)


def test_both_charts_are_clean() -> None:
    """`helm lint --strict` has nothing to say."""
    ended = run("helm", "lint", "--strict", CHART)
    assert ended.returncode == 0, ended.stdout
    assert "0 chart(s) failed" in ended.stdout


def test_it_is_a_native_sidecar(manifests: list[Manifest], sidecar: Manifest) -> None:
    """An init container that keeps running: up before the application, ended after it."""
    assert sidecar in pod_of(manifests)["initContainers"]
    assert sidecar["restartPolicy"] == "Always"


def test_it_has_no_privileges(sidecar: Manifest) -> None:
    """What the restricted Pod Security Standard asks for, and a read-only root."""
    assert sidecar["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_the_application_reaches_the_socket(manifests: list[Manifest], sidecar: Manifest) -> None:
    """Both mount the volume in memory that the socket is on, the application is told its path, and the pod's fsGroup
    lets both in whatever users they are."""
    pod = pod_of(manifests)
    (application,) = pod["containers"]
    mount = {"name": "millirank-socket", "mountPath": "/run/millirank"}
    assert mount in sidecar["volumeMounts"]
    assert mount in application["volumeMounts"]
    assert {"name": "millirank-socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}} in pod["volumes"]
    assert pod["securityContext"]["fsGroup"] == 10001
    told = environment_of(application)["MILLIRANK_TARGET"]
    assert told == "unix:" + load(None, environment_of(sidecar)).listen.unix


def test_only_health_and_metrics_face_the_network(sidecar: Manifest) -> None:
    """The service itself is on the socket alone; the ports that the container names are those that it opens."""
    listen = load(None, environment_of(sidecar)).listen
    assert (listen.tcp, listen.http, listen.admin) == ("", "", "")
    assert {port["name"]: port["containerPort"] for port in sidecar["ports"]} == {
        "mr-health": int(listen.health.rpartition(":")[2]),
        "mr-metrics": int(listen.metrics.rpartition(":")[2]),
    }


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])  # noqa: S104 - every address of the pod is meant
def test_pods_of_either_family_can_be_probed(chart: Path, address: str) -> None:
    """Both listeners open on what the chart says, and answer over a loopback address of that family."""
    if address == "[::]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    listen = load(None, environment_of(container_of(rendered(chart, values={"millirank": {"listenAddress": address}}))))
    variables = NO_MODELS | {
        "MILLIRANK_LISTEN__HEALTH": listen.listen.health.replace(":50053", ":0"),
        "MILLIRANK_LISTEN__METRICS": listen.listen.metrics.replace(":9464", ":0"),
    }
    loopback = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}[address]  # noqa: S104
    with SidecarProcess(variables) as process:
        health, metrics = (str(process.wait_for_log(name)["address"]) for name in ("health", "metrics"))
        assert millirank("health", "--target", health.replace(address, loopback)).returncode == 0
        with urllib.request.urlopen(f"http://{metrics.replace(address, loopback)}/metrics", timeout=10) as answer:
            assert answer.status == 200


def test_probes_ask_the_health_listener(sidecar: Manifest) -> None:
    """By gRPC from the kubelet, which costs the container no process; the pod is up within a second of NONE."""
    health = {"port": int(load(None, environment_of(sidecar)).listen.health.rpartition(":")[2])}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[name]["grpc"] == health
    assert sidecar["startupProbe"]["periodSeconds"] == 1


def test_profiles_are_mounted_as_a_folder(manifests: list[Manifest], sidecar: Manifest) -> None:
    """Not by subPath, which would keep the first version; read-only; and the pod starts before there is any."""
    (mount,) = [each for each in sidecar["volumeMounts"] if each["name"] == "millirank-profiles"]
    assert mount == {"name": "millirank-profiles", "mountPath": "/etc/millirank/profiles", "readOnly": True}
    assert load(None, environment_of(sidecar)).profiles == (mount["mountPath"],)
    (volume,) = [each for each in pod_of(manifests)["volumes"] if each["name"] == "millirank-profiles"]
    assert volume["configMap"]["optional"] is True


def test_the_profiles_given_are_the_profiles_mounted(chart: Path, tmp_path: Path) -> None:
    """--set-file puts what `millirank calibrate` wrote into the ConfigMap that the pod mounts, byte for byte."""
    profile = tmp_path / "profile.json"
    profile.write_text('{\n  "corpus": "legal"\n}\n')
    manifests = rendered(chart, "--set-file", rf"millirank.profiles.files.legal\.json={profile}")
    config_map = only(manifests, "ConfigMap")
    assert config_map["data"] == {"legal.json": profile.read_text()}
    names = [volume["configMap"]["name"] for volume in pod_of(manifests)["volumes"] if "configMap" in volume]
    assert names == [config_map["metadata"]["name"]]


def test_a_changed_configuration_replaces_the_pods(chart: Path) -> None:
    """The configuration is read once, so that its digest is on the pod template; a profile's change leaves it alone."""

    def template(values: Manifest) -> Manifest:
        return dict(only(rendered(chart, values={"millirank": values}), "Deployment")["spec"]["template"])

    first, second = template({"config": "linger_s = 1"}), template({"config": "linger_s = 2"})
    assert first["metadata"]["annotations"] != second["metadata"]["annotations"]
    profiles = {"files": {"a.json": "{}"}}
    assert template({"config": "linger_s = 1", "profiles": profiles})["metadata"] == first["metadata"]


def test_the_pod_monitor_finds_these_pods(chart: Path) -> None:
    """It selects a label that the pod has, and a port that the sidecar names."""
    manifests = rendered(chart, values={"millirank": {"monitoring": {"scrape": True}}})
    monitor = only(manifests, "PodMonitor")["spec"]
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in container_of(manifests)["ports"]]


def test_nothing_of_the_pool_comes_along(manifests: list[Manifest]) -> None:
    """In this shape the chart adds no workload, service or policy of its own."""
    assert sorted(manifest["kind"] for manifest in manifests) == ["Deployment", "Service"]
    assert {manifest["metadata"]["name"] for manifest in manifests} == {"search"}


def test_including_it_in_the_other_shape_is_refused(chart: Path) -> None:
    """Whoever forgets `shape: sidecar` is told, instead of getting a pool besides."""
    ended = run("helm", "template", "search", chart, "--set", "millirank.shape=standalone")
    assert ended.returncode != 0
    assert "set millirank.shape to sidecar" in ended.stderr


def test_the_container_works_as_it_is_rendered(sidecar: Manifest, tmp_path: Path) -> None:
    """Its environment, with the pod's folders and ports replaced by free ones, starts a sidecar that answers on the
    socket, can be probed and scraped, and listens nowhere else."""
    (tmp_path / "profiles").mkdir()
    variables = environment_of(sidecar) | NO_MODELS
    variables["MILLIRANK_LISTEN__UNIX"] = f"{tmp_path}/millirank.sock"
    variables["MILLIRANK_PROFILES"] = variables["MILLIRANK_PROFILES"].replace("/etc/millirank", str(tmp_path))
    for listener in ("HEALTH", "METRICS"):
        variables[f"MILLIRANK_LISTEN__{listener}"] = "127.0.0.1:0"
    with SidecarProcess(variables) as process:
        assert process.addresses == [f"unix:{tmp_path}/millirank.sock"]
        with Client(process.addresses[0]) as client:
            assert [result.index for result in client.rerank("q", ["a", "b"], budget_ms=1000)] == [0, 1]
        assert millirank("health", "--target", str(process.wait_for_log("health")["address"])).returncode == 0
        metrics = process.wait_for_log("metrics")["address"]
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
            assert b"millirank_utilisation_ratio" in answer.read()


def test_the_page_includes_what_there_is() -> None:
    """docs/deploy.md names every template that a pod has to include, and none that does not exist."""
    named = set(re.findall(r'include "(millirank\.sidecar\.\w+)"', (REPOSITORY / "docs" / "deploy.md").read_text()))
    defined = set(re.findall(r'define "(millirank\.sidecar\.\w+)"', (CHART / "templates" / "_sidecar.tpl").read_text()))
    assert named == defined


def test_the_pages_values_are_accepted(chart: Path) -> None:
    """The values that docs/deploy.md shows, of every kind, render; and a key from a Secret reaches the container."""
    key = {"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "llm", "key": "key"}}}
    models = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    values = {
        "mode": "observe",
        "image": {"repository": "registry.example.com/millirank"},
        "env": [key],
        "volumes": [models],
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
        "config": '[rerankers.mine]\nstrategy = "cross_encoder"\nmodel = "/models/mine"\n',
    }
    manifests = rendered(chart, values={"millirank": values})
    container = container_of(manifests)
    assert key in container["env"]
    assert container["image"] == "registry.example.com/millirank:0.1.0"
    assert models in pod_of(manifests)["volumes"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
