"""The validation that the other tests of deploy/ rely on finds what is wrong."""

from __future__ import annotations

import jsonschema
import pytest

from tests.deploy.kubernetes import Manifest, validate


def service(**spec: object) -> Manifest:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}], **spec}}


def pod_monitor(**endpoint: object) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "a"},
        "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "metrics", **endpoint}]},
    }


@pytest.mark.parametrize("make", [service, pod_monitor])
def test_what_is_right_passes(make: type) -> None:
    """Built-in and custom resources."""
    validate(make())


@pytest.mark.parametrize(
    "manifest",
    [service(clusterIp="None"), service(sessionAffinity=1), pod_monitor(intervall="15s"), pod_monitor(interval=15)],
)
def test_a_field_that_is_not_there_or_of_another_type_is_found(manifest: Manifest) -> None:
    """A misspelt field would be dropped or refused by the cluster only."""
    with pytest.raises(jsonschema.ValidationError):
        validate(manifest)
