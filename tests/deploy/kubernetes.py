"""Real Helm and Kustomize over what is in deploy/, and Kubernetes' own schemas over what comes out."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import kubernetes_validate
import pytest
import yaml

Manifest: TypeAlias = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
CHART = DEPLOY / "helm" / "millirank"
EXAMPLE = DEPLOY / "examples" / "go-search"
_TOOLS = REPOSITORY / "build" / "deploy-tools"

# The oldest that the chart admits, and the newest whose schemas there are.
_VERSIONS = ("1.30", "1.37")


def tool(name: str) -> Path:
    """Path of what `make deploy-tools` built; without it the test is skipped, by name."""
    path = _TOOLS / name
    if not path.exists():
        pytest.skip(f"{name} is not built; run: make deploy-tools")
    return path


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One command of a tool, whatever became of it."""
    return subprocess.run([tool(name), *arguments], capture_output=True, text=True, timeout=60, check=False)


def rendered(chart: Path, *arguments: str, release: str = "search", values: Manifest | None = None) -> list[Manifest]:
    """What `helm template` makes of a chart with these values over its own, validated."""
    command = [tool("helm"), "template", release, chart, "--namespace", "apps", *arguments]
    if values is not None:
        command += ["--values", "-"]
    ended = subprocess.run(
        command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return _validated(ended.stdout)


def built(kustomization: Path) -> list[Manifest]:
    """What `kustomize build` makes of a folder, validated."""
    ended = run("kustomize", "build", kustomization)
    assert ended.returncode == 0, ended.stderr
    return _validated(ended.stdout)


def search_chart(folder: Path) -> Path:
    """A copy of the example's chart in ``folder``, with the Millirank chart packed into it as Helm does it."""
    shutil.copytree(CHART, folder / "helm" / "millirank")
    chart = folder / "examples" / "go-search" / "chart"
    shutil.copytree(EXAMPLE / "chart", chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    ended = run("helm", "dependency", "build", chart)
    assert ended.returncode == 0, ended.stderr
    return chart


def only(manifests: Sequence[Manifest], kind: str) -> Manifest:
    """The one manifest of that kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_of(manifests: Sequence[Manifest]) -> Manifest:
    """The pod template's spec of the one Deployment."""
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def container_of(manifests: Sequence[Manifest]) -> Manifest:
    """The container called millirank, wherever in the pod it is."""
    pod = pod_of(manifests)
    (found,) = [each for each in pod.get("initContainers", []) + pod["containers"] if each["name"] == "millirank"]
    return dict(found)


def environment_of(container: Manifest) -> dict[str, str]:
    """The variables that are given by value."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def _validated(text: str) -> list[Manifest]:
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    assert manifests
    for manifest in manifests:
        validate(manifest)
    return manifests


def validate(manifest: Manifest) -> None:
    """Raises jsonschema.ValidationError for a field that does not exist, is missing, or has the wrong type."""
    if manifest["apiVersion"] == "monitoring.coreos.com/v1":
        jsonschema.validate(manifest, _custom_schema(manifest["kind"]))
        return
    for version in _VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@functools.cache
def _custom_schema(kind: str) -> Manifest:
    definition = yaml.safe_load((tool("crds") / f"{kind.lower()}s.yaml").read_text())
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == "v1"]
    strict: Manifest = _strict(copy.deepcopy(schema))
    strict["properties"]["metadata"] = {"type": "object"}
    return strict


def _strict(schema: Any) -> Any:
    """A server drops fields that a custom resource does not have, without a word; here they are errors."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if isinstance(made.get("pattern"), str):
        # Go admits flags anywhere, Python at the start.
        made["pattern"] = made["pattern"].replace("^(?i)", "(?i)^")
    return made
