"""What can be checked of the deployment files without a container engine or a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sidecar.settings import load

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def pod() -> dict:
    return yaml.safe_load((DEPLOY / "kubernetes" / "sidecar.yaml").read_text())["spec"]


def test_the_pods_environment_is_a_valid_configuration(pod: dict) -> None:
    """Every MILLIRANK_ variable of the sidecar container is a setting that exists, with a value that is accepted."""
    (sidecar,) = pod["initContainers"]
    settings = load(None, {entry["name"]: entry["value"] for entry in sidecar["env"]})
    assert settings.listen.unix == "/run/millirank/millirank.sock"
    assert settings.listen.tcp == ""


def test_the_sidecar_and_the_application_see_the_same_socket(pod: dict) -> None:
    """Both mount the volume that the socket is on, at the path that each of them is told."""
    (sidecar,), (application,) = pod["initContainers"], pod["containers"]
    assert sidecar["volumeMounts"] == application["volumeMounts"]
    told = {entry["name"]: entry["value"] for entry in application["env"]}["MILLIRANK_TARGET"]
    assert told == "unix:" + load(None, {e["name"]: e["value"] for e in sidecar["env"]}).listen.unix
    assert told in sidecar["startupProbe"]["exec"]["command"]


def test_the_sidecar_starts_first_and_keeps_running_without_privileges(pod: dict) -> None:
    """It is a native sidecar, not root, with a read-only root filesystem and no capabilities."""
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    security = sidecar["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_image_copies_only_what_is_there() -> None:
    """Every path that the Dockerfile takes from the repository exists."""
    root = DEPLOY.parent
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert paths
    assert all((root / path).exists() for path in paths)
