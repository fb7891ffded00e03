"""What can be checked of the pool's manifests without a cluster; no Ray is started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ray", reason="SKIPPED: the pool's tests need Ray: pip install -e '.[ray]'")

from deploy.ray.app import build
from deploy.ray.arguments import Arguments
from sidecar.settings import SettingsError, load

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"


def manifests() -> dict[str, Any]:
    """The documents of rayservice.yaml by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())}


def serve_configs() -> list[dict[str, Any]]:
    """What Ray Serve is told, on Kubernetes and on one machine."""
    return [
        yaml.safe_load(manifests()["RayService"]["spec"]["serveConfigV2"]),
        yaml.safe_load((FOLDER / "local.yaml").read_text()),
    ]


@pytest.mark.parametrize("config", serve_configs(), ids=["kubernetes", "local"])
def test_serve_takes_the_configuration(config: dict[str, Any]) -> None:
    """Ray's own schema accepts it, and our arguments are ones that there are."""
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    Arguments.model_validate(application.args)
    assert application.import_path == "deploy.ray.app:build"
    assert schema.grpc_options.grpc_servicer_functions == ["deploy.ray.services.add_to_server"]


def test_the_models_that_are_scaled_are_configured(tmp_path: Path) -> None:
    """Every name under `models` is a reranker of the ConfigMap's settings, which are those of the file."""
    text = manifests()["ConfigMap"]["data"]["pool.toml"]
    file = tmp_path / "pool.toml"
    file.write_text(text, encoding="utf-8")
    assert load(file, {}) == load(FOLDER / "pool.toml", {})
    (application,) = serve_configs()[0]["applications"]
    build(Arguments.model_validate({**application["args"], "config": str(file)}))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    """The message says which name is wrong and which there are."""
    with pytest.raises(SettingsError, match=r"models\.bge .* there are: minilm-l6, tiny-cross-encoder"):
        build(Arguments.model_validate({"models": {"bge": {}}}))


def test_a_model_on_a_gpu_that_asks_for_none(tmp_path: Path) -> None:
    """It is told apart from one that asks, before Ray puts it on a node without a GPU."""
    file = tmp_path / "pool.toml"
    file.write_text(
        '[rerankers.bge]\nstrategy = "cross_encoder"\nengine = "sentence_transformers"\nmodel = "some/model"\n'
        'device = "cuda"\n'
    )
    with pytest.raises(SettingsError, match=r"rerankers\.bge\.device is 'cuda', .*set models\.bge\.gpus, such as 0\.5"):
        build(Arguments.model_validate({"config": str(file)}))
    build(Arguments.model_validate({"config": str(file), "models": {"bge": {"gpus": 0.5}}}))


def test_the_service_finds_the_workers_and_their_port() -> None:
    """The headless service selects the pods that have a gRPC proxy."""
    documents = manifests()
    (group,) = documents["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    labels = group["template"]["metadata"]["labels"]
    service = documents["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= labels.items()
    (container,) = group["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [9000]
    assert [port["port"] for port in service["ports"]] == [9000]


def test_the_image_copies_only_what_is_there() -> None:
    """Every path that the Dockerfile takes from the repository exists."""
    copied = re.findall(r"^COPY --chown=ray (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert len(paths) >= 6
    assert all((FOLDER.parents[1] / path).exists() for path in paths)
