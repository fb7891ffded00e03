"""What can be checked of deploy/compose.yaml and Grafana's provisioning without a container engine."""

from __future__ import annotations

from pathlib import Path

import yaml

from sidecar.settings import load
from tests.deploy.observing import DEPLOY

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def test_the_sidecars_environment_is_a_valid_configuration() -> None:
    """Every MILLIRANK_ variable is a setting, and what the others read is where they look for it."""
    settings = load(None, COMPOSE["millirank"]["environment"])
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"millirank:{settings.listen.metrics.rpartition(':')[2]}"]
    assert COMPOSE["millirank"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4317"
    assert "jaeger" in COMPOSE


def test_everything_that_is_mounted_is_there_and_nothing_is_published_beyond_loopback() -> None:
    """Paths exist; ports bind 127.0.0.1; images are pinned."""
    for service in COMPOSE.values():
        for mount in service.get("volumes", []):
            assert (DEPLOY / mount.split(":")[0]).exists(), mount
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "build" in service or service["image"].rpartition(":")[2] not in ("", "latest")


def test_an_exemplar_leads_to_the_trace() -> None:
    """Grafana's data source names the label that the sidecar writes, and the other data source's id."""
    provisioned = DEPLOY / "grafana" / "provisioning" / "datasources" / "millirank.yaml"
    sources = {source["uid"]: source for source in yaml.safe_load(Path(provisioned).read_text())["datasources"]}
    (destination,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination == {"name": "trace_id", "datasourceUid": "jaeger"}
    assert sources["jaeger"]["type"] == "jaeger"
