"""Rules and dashboard that the chart brings: the files that are checked and watched elsewhere, not copies of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.deploy.kubernetes import CHART, DEPLOY, Manifest, only, rendered, search_chart

WANTED = {"rules": True, "dashboard": True, "labels": {"release": "prometheus"}}


@pytest.fixture(scope="module", params=["standalone", "sidecar"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Of the chart by itself, and packed into another one as a dependency."""
    if request.param == "standalone":
        return rendered(CHART, values={"monitoring": WANTED})
    chart: Path = search_chart(tmp_path_factory.mktemp("deploy"))
    return rendered(chart, values={"millirank": {"monitoring": WANTED}})


def test_the_rules_are_prometheus_own(manifests: list[Manifest]) -> None:
    """Every group of deploy/prometheus/rules.yaml, templates in annotations untouched."""
    rule = only(manifests, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_the_dashboard_is_grafanas_own(manifests: list[Manifest]) -> None:
    """In a ConfigMap with the label that Grafana's sidecar looks for."""
    (config_map,) = [each for each in manifests if each["metadata"]["name"].endswith("-dashboard")]
    assert config_map["metadata"]["labels"].items() >= {("grafana_dashboard", "1"), ("release", "prometheus")}
    dashboard = json.loads(config_map["data"]["millirank.json"])
    assert dashboard == json.loads((DEPLOY / "grafana" / "millirank.json").read_text())
