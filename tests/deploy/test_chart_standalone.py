"""The chart by itself: a pool of sidecars that applications reach over the network."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
import trustme
from millirank import Client, Outcome

from sidecar.settings import load
from tests.deploy.kubernetes import (
    CHART,
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

EVERYTHING = {
    "tls": {"secretName": "millirank-tls"},
    "autoscaling": {"enabled": True},
    "monitoring": {"scrape": True},
    "telemetry": {"otlpEndpoint": "http://collector.observability:4317"},
    "config": 'log_level = "debug"\n[limits]\ndocuments = 500\n',
    "networkPolicy": {
        "egress": {
            "telemetry": {"to": [{"namespaceSelector": {"matchLabels": {"name": "observability"}}}]},
            "llm": {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]},
        }
    },
}


@pytest.fixture(scope="module")
def plain() -> list[Manifest]:
    return rendered(CHART)


@pytest.fixture(scope="module")
def full() -> list[Manifest]:
    return rendered(CHART, values=EVERYTHING)


def test_what_it_consists_of(plain: list[Manifest], full: list[Manifest]) -> None:
    """A pool, its service and its protection by default; scaling, monitoring and configuration where asked for."""
    always = ["Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Service"]
    assert sorted(manifest["kind"] for manifest in plain) == always
    more = ["ConfigMap", "HorizontalPodAutoscaler", "ServiceMonitor"]
    assert sorted(manifest["kind"] for manifest in full) == sorted(always + more)


def test_the_container_is_the_sidecars(tmp_path: Path, plain: list[Manifest]) -> None:
    """Probes, privileges and resources are the same in both shapes."""
    sidecar, pool = container_of(rendered(search_chart(tmp_path))), container_of(plain)
    for field in ("startupProbe", "readinessProbe", "livenessProbe", "securityContext", "resources", "image"):
        assert pool[field] == sidecar[field]
    assert "restartPolicy" not in pool


def test_its_configuration_is_accepted(tmp_path: Path, full: list[Manifest]) -> None:
    """The file in the ConfigMap and the variables together are settings that exist."""
    path = tmp_path / "millirank.toml"
    path.write_text(only(full, "ConfigMap")["data"]["millirank.toml"])
    variables = environment_of(container_of(full))
    settings = load(path, variables)
    assert (settings.log_level, settings.limits.documents) == ("debug", 500)
    assert settings.listen.tls.client_ca == "/etc/millirank/tls/ca.crt"
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(full)["volumeMounts"]}
    assert variables["MILLIRANK_CONFIG"] == mounts["millirank-config"] + "/millirank.toml"
    assert Path(settings.listen.tls.key).parent == Path(mounts["millirank-tls"])


def test_selectors_find_the_pool_and_not_the_test_pod(full: list[Manifest]) -> None:
    """Service, disruption budget, network policy and spread mean the Deployment's pods, and the hook's pod is none."""
    labels = only(full, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test_labels = only(full, "Pod")["metadata"]["labels"]
    selectors = [
        only(full, "Deployment")["spec"]["selector"]["matchLabels"],
        only(full, "Service")["spec"]["selector"],
        only(full, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(full, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pod_of(full)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items()


def test_clients_see_every_pod(full: list[Manifest]) -> None:
    """A headless service, whose ports are those that the container names."""
    spec = only(full, "Service")["spec"]
    assert spec["clusterIP"] == "None"
    names = {port["name"] for port in container_of(full)["ports"]}
    assert {port["targetPort"] for port in spec["ports"]} <= names
    (endpoint,) = only(full, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in spec["ports"]}
    assert (
        only(full, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
        <= only(full, "Service")["metadata"]["labels"].items()
    )


def test_it_scales_on_its_own_utilisation(plain: list[Manifest], full: list[Manifest]) -> None:
    """60 % of the busiest part of a pod; the Deployment then says no number of replicas, which would fight with it."""
    autoscaler = only(full, "HorizontalPodAutoscaler")["spec"]
    (metric,) = autoscaler["metrics"]
    assert metric["pods"]["metric"]["name"] == "millirank_utilisation_ratio"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "600m"}
    assert autoscaler["scaleTargetRef"]["name"] == only(full, "Deployment")["metadata"]["name"]
    assert "replicas" not in only(full, "Deployment")["spec"]
    assert only(plain, "Deployment")["spec"]["replicas"] == 2


def test_it_connects_to_nothing_but_dns_unless_told(plain: list[Manifest]) -> None:
    """Both directions are restricted; out go name look-ups, to the cluster's own DNS."""
    spec = only(plain, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (dns,) = spec["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert dns["to"]


def test_telemetry_and_llm_are_let_out_by_name(full: list[Manifest]) -> None:
    """Each to its own peers and port. No rule is without peers: that would mean everywhere."""
    egress = only(full, "NetworkPolicy")["spec"]["egress"]
    assert [rule["ports"][0]["port"] for rule in egress] == [53, 4317, 443]
    assert all(rule["to"] for rule in egress)


def test_a_policy_without_any_way_out_lets_nothing_out() -> None:
    """With no DNS either, egress is empty rather than open."""
    manifests = rendered(CHART, values={"networkPolicy": {"egress": {"dns": []}}})
    spec = only(manifests, "NetworkPolicy")["spec"]
    assert "Egress" in spec["policyTypes"]
    assert not spec.get("egress")


def test_it_ends_within_its_grace_period(plain: list[Manifest]) -> None:
    """The sleep before SIGTERM, the time to linger and to drain fit into what the pod is given."""
    settings = load(None, environment_of(container_of(plain)))
    slept = container_of(plain)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert slept + settings.linger_s + settings.drain_s < pod_of(plain)["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("shape=pool", "/shape"),
        ("modes=off", "modes"),
        ("ports.grpc=80", "/ports/grpc"),
        ("autoscaling.targetUtilisation=60", "/autoscaling/targetUtilisation"),
        ("telemetry.otlpEndpoint=collector:4317", "/telemetry/otlpEndpoint"),
        ("profiles.files.legal=x", "legal"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: str, named: str) -> None:
    """By values.schema.json, before anything is rendered, and by name."""
    ended = run("helm", "template", "pool", CHART, "--set", values)
    assert ended.returncode != 0
    assert named in ended.stderr


def test_mutual_tls_works_as_it_is_rendered(full: list[Manifest], tmp_path: Path) -> None:
    """With the rendered variables, and a Secret's files where they are mounted: a client with a certificate is
    answered, one without is not, and the probe needs none."""
    authority = trustme.CA()
    server, own = authority.issue_cert("localhost"), authority.issue_cert("client@example.org")
    (tmp_path / "tls.crt").write_bytes(server.cert_chain_pems[0].bytes())
    (tmp_path / "tls.key").write_bytes(server.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    variables = {
        name: value.replace("/etc/millirank/tls", str(tmp_path))
        for name, value in environment_of(container_of(full)).items()
        if "__TLS__" in name
    }
    assert len(variables) == 3
    variables |= NO_MODELS | {"MILLIRANK_LISTEN__TCP": "localhost:0", "MILLIRANK_LISTEN__HEALTH": "127.0.0.1:0"}
    ca = authority.cert_pem.bytes()
    certified = grpc.ssl_channel_credentials(ca, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
    with SidecarProcess(variables) as process:
        (address,) = process.addresses
        with Client(address, credentials=certified) as client:
            assert client.rerank("q", ["a", "b"], budget_ms=2000).outcome is Outcome.RANKED
        with Client(address, credentials=grpc.ssl_channel_credentials(ca)) as client:
            assert client.rerank("q", ["a", "b"], budget_ms=2000).outcome is Outcome.FIRST_STAGE
        assert millirank("health", "--target", str(process.wait_for_log("health")["address"])).returncode == 0


def test_the_hook_runs_a_command_that_exists(full: list[Manifest]) -> None:
    """`helm test` asks the pool's health over the network, through the port that the policy lets it use."""
    pod = only(full, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    target = container["args"][container["args"].index("--target") + 1]
    host, _, port = target.rpartition(":")
    assert host == only(full, "Service")["metadata"]["name"]
    opened = [(rule["from"], rule["ports"][0]["port"]) for rule in only(full, "NetworkPolicy")["spec"]["ingress"]]
    (let_in,) = [peers for peers, number in opened if number == int(port)]
    assert let_in[0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    nobody = [*container["args"]]
    nobody[nobody.index("--target") + 1] = "127.0.0.1:1"
    nobody[nobody.index("--timeout") + 1] = "2"
    ended = millirank(*nobody)
    assert (ended.returncode, ended.stdout) == (1, "127.0.0.1:1: UNAVAILABLE\n")


def test_every_value_is_in_the_schema_and_used() -> None:
    """A value that no template reads would be set in vain."""
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    values = re.findall(r"^([a-zA-Z]+):", (CHART / "values.yaml").read_text(), re.MULTILINE)
    assert [value for value in values if f".Values.{value}" not in templates] == []
