"""The Kustomize component against the chart: two ways to the same sidecar."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.kubernetes import (
    DEPLOY,
    EXAMPLE,
    Manifest,
    built,
    container_of,
    environment_of,
    only,
    pod_of,
    rendered,
    search_chart,
)


@pytest.fixture(scope="module")
def kustomized() -> list[Manifest]:
    return built(EXAMPLE / "with-sidecar")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The example's chart with default values, but for the name of a ConfigMap, which is each tool's own."""
    values = {"millirank": {"profiles": {"configMap": "millirank-profiles"}}}
    return rendered(search_chart(tmp_path_factory.mktemp("deploy")), values=values)


def test_the_sidecar_is_the_charts(kustomized: list[Manifest], helm: list[Manifest]) -> None:
    """The whole container, to the last field."""
    assert container_of(kustomized) == container_of(helm)


def test_the_pod_is_the_charts(kustomized: list[Manifest], helm: list[Manifest]) -> None:
    """Volumes, group, and what the application is told: pod and service are equal whichever way they were made."""
    assert pod_of(kustomized) == pod_of(helm)
    assert only(kustomized, "Service")["spec"] == only(helm, "Service")["spec"]


def test_without_the_component_there_is_no_trace_of_it() -> None:
    """The base is the service as it was before."""
    pod = pod_of(built(EXAMPLE / "base"))
    assert "millirank" not in yaml.safe_dump(pod)


def test_any_deployment_keeps_what_it_has(tmp_path: Path) -> None:
    """Two Deployments of several containers, with volumes, variables and init containers of their own: those stay, and
    every container can reach the socket."""
    mounts = [{"name": "data", "mountPath": "/data"}]
    app = {"name": "app", "image": "a", "env": [{"name": "OWN", "value": "1"}], "volumeMounts": mounts}
    pod = {
        "initContainers": [{"name": "migrate", "image": "m"}],
        "containers": [app, {"name": "proxy", "image": "p"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    resources = []
    for name in ("one", "two"):
        labels = {"app": name}
        spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
        resources.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "apps.yaml").write_text(yaml.safe_dump_all(resources))
    component = tmp_path / "sidecar"
    component.mkdir()
    for path in (DEPLOY / "kustomize" / "sidecar").iterdir():
        (component / path.name).write_text(path.read_text())
    kustomization = {"resources": ["apps.yaml"], "components": ["../sidecar"]}
    (tmp_path / "own" / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    made = built(tmp_path / "own")
    assert [manifest["kind"] for manifest in made] == ["Deployment", "Deployment"]
    for manifest in made:
        spec = manifest["spec"]["template"]["spec"]
        assert sorted(each["name"] for each in spec["initContainers"]) == ["migrate", "millirank"]
        assert {"data", "millirank-socket", "millirank-profiles"} == {volume["name"] for volume in spec["volumes"]}
        assert {"name": "OWN", "value": "1"} in spec["containers"][0]["env"]
        assert mounts[0] in spec["containers"][0]["volumeMounts"]
        for container in spec["containers"]:
            assert environment_of(container)["MILLIRANK_TARGET"] == "unix:/run/millirank/millirank.sock"
            assert {"name": "millirank-socket", "mountPath": "/run/millirank"} in container["volumeMounts"]
