"""What can be checked of the images without a container engine. `make image-rootfs` does more, as root."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.kubernetes import CHART, DEPLOY, EXAMPLE, REPOSITORY, container_of, rendered
from tests.e2e.sidecar_process import clean_environment, millirank

DOCKER = DEPLOY / "docker"
DOCKERFILES = [DOCKER / "Dockerfile", EXAMPLE / "Dockerfile"]
LOCKS = ["slim", "full-cpu", "full-cuda"]


def pinned(name: str) -> dict[str, str]:
    """Package -> version; every one has to come with the digest of at least one file."""
    text = (DOCKER / f"requirements-{name}.txt").read_text()
    entries = re.findall(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if "==" in line]
    assert len(entries) == len(lines)
    return {package.lower().replace("_", "-"): version for package, version, _ in entries}


def wanted(*extras: str) -> list[Requirement]:
    """What the server and, transitively, these extras of it ask for; without our own packages."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            found += wanted(*requirement.extras) if requirement.name == "millirank-server" else [requirement]
    client = tomllib.loads((REPOSITORY / "clients" / "python" / "pyproject.toml").read_text())["project"]
    return [each for each in found if each.name != "millirank"] + [Requirement(line) for line in client["dependencies"]]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_dockerfiles_are_clean(dockerfile: Path) -> None:
    """Hadolint has nothing to say; what it may not say is ignored where it is, by number."""
    ended = subprocess.run(
        [Path(sys.executable).parent / "hadolint", dockerfile], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("torch", ["cpu", "cuda"])
def test_the_images_copy_only_what_is_there(dockerfile: Path, torch: str) -> None:
    """Every path that is taken from the repository exists, and is not kept from the build."""
    text = dockerfile.read_text().replace("${TORCH}", torch)
    paths = [path for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for path in line.split()]
    assert paths
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert not {path.split("/")[0] for path in paths} & set(ignored)


def test_steps_and_health_check_exist() -> None:
    """Each step that the image's build runs is one of install.sh's, and its health check a command that works."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    steps = set(re.findall(r"sh deploy/docker/install\.sh (\w+)", dockerfile))
    known = set(re.findall(r"^(\w+)\)$", (DOCKER / "install.sh").read_text(), re.MULTILINE))
    assert steps == known
    (check,) = set(re.findall(r'HEALTHCHECK .* CMD \["millirank", (.+)\]', dockerfile))
    arguments = [argument.strip(' "') for argument in check.split(",")]
    ended = millirank(*arguments, variables={"MILLIRANK_LISTEN__UNIX": "/nowhere/millirank.sock"})
    assert (ended.returncode, ended.stdout) == (1, "unix:/nowhere/millirank.sock: UNAVAILABLE\n")


def test_the_images_user_is_the_charts() -> None:
    """The user that the image ends as, and that the chart demands."""
    users = set(re.findall(r"^USER (.+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
    security = container_of(rendered(CHART))["securityContext"]
    assert users == {f"{security['runAsUser']}:{security['runAsGroup']}"}


@pytest.mark.parametrize(
    ("lock", "extras"), [("slim", []), ("full-cpu", ["ragatouille"]), ("full-cuda", ["ragatouille"])]
)
def test_pins_are_what_the_packages_ask_for(lock: str, extras: list[str]) -> None:
    """Every requirement of the packages that an image installs is pinned, with digests, to a version that they admit.
    If this fails after a change of pyproject.toml: make requirements."""
    versions, extras = pinned(lock), [] if lock == "slim" else ["ragatouille"]
    unmet = [
        str(requirement)
        for requirement in wanted(*extras)
        if not requirement.specifier.contains(versions.get(requirement.name.lower().replace("_", "-"), "0"))
    ]
    assert unmet == []


def test_torch_is_where_it_belongs() -> None:
    """None in the slim image; a build for CPUs, without CUDA's libraries, and one with them in the full ones."""
    torch = {lock: pinned(lock).get("torch") for lock in LOCKS}
    assert torch["slim"] is None
    assert torch["full-cpu"] == f"{torch['full-cuda']}+cpu"
    with_cuda = {lock: any(name.startswith("nvidia-") for name in pinned(lock)) for lock in LOCKS}
    assert with_cuda == {"slim": False, "full-cpu": False, "full-cuda": True}


def test_the_build_tries_what_it_installed(tmp_path: Path) -> None:
    """try.sh, on what is installed here: both embedded models rerank, and the process ends when told to."""
    variables = clean_environment(MILLIRANK_LISTEN__UNIX=str(tmp_path / "millirank.sock"))
    variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["sh", DOCKER / "try.sh"], env=variables, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-3:] == [
        "minilm-l6 reranks",
        "tiny-cross-encoder reranks",
        "started, was healthy, reranked and ended",
    ]
