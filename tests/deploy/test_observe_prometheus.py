"""Rules and dashboard against a real Prometheus that reads a real sidecar under load."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from millirank import Client, RerankerNotFoundError, Strategy

from tests.deploy.observing import DEPLOY, Program, eventually, free_address, get_json, tool
from tests.e2e.conftest import model_settings, wait_until_ready
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.sidecar_process import SidecarProcess
from tests.rerankers.fake_pool import FakePool

INSTALL = "install the Debian package prometheus, or put Prometheus on the PATH"
RULES = DEPLOY / "prometheus" / "rules.yaml"
PANELS = [
    panel
    for panel in json.loads((DEPLOY / "grafana" / "millirank.json").read_text())["panels"]
    if panel["type"] != "row"
]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
RATE_WINDOW = "10s"  # ten scrapes of this test's Prometheus


def rules() -> list[dict[str, Any]]:
    """Every rule."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str | Path) -> None:
    """Run to its end in the folder of the rules; fails with its words."""
    command = [tool("promtool", INSTALL), *map(str, arguments)]
    ended = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_rules_are_valid() -> None:
    """promtool, which also reads the configuration that names them."""
    promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "prometheus.yml")


def test_alerts_fire_for_what_they_are_for() -> None:
    """promtool's own unit tests: series in, alerts out."""
    promtool("test", "rules", "rules_test.yaml")


def test_every_alert_is_tested_and_has_a_runbook() -> None:
    """A unit test for each, and a heading of the runbook that its annotation leads to."""
    alerts = [rule for rule in rules() if "alert" in rule]
    tests = yaml.safe_load((RULES.parent / "rules_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    assert {rule["alert"] for rule in alerts} == fired
    headings = re.findall(r"^## (.+)$", (DEPLOY.parent / "docs" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {rule["annotations"]["runbook"].removeprefix("docs/runbook.md#") for rule in alerts} <= anchors


def test_panels_answer_a_question_each_and_do_not_overlap() -> None:
    """Ids are unique, every panel has a title, and no two share a cell of the grid."""
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


def metric_names(expression: str) -> set[str]:
    """What a PromQL expression reads: names without labels, nor what they are matched or grouped by."""
    bare = re.sub(r"\{[^}]*\}|\b(?:by|on|ignoring|group_left|group_right|without) ?\([^)]*\)", "", expression)
    return set(re.findall(r"\bmillirank[a-z0-9_:]+", bare))


def test_metric_names_are_read_from_expressions() -> None:
    """The reader itself: labels are no metrics."""
    expression = 'sum by (millirank_a) (rate(millirank_b_total{millirank_c="d"}[5m])) / on (millirank_e) millirank:f:g'
    assert metric_names(expression) == {"millirank_b_total", "millirank:f:g"}


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = get_json(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert answer["status"] == "success"
        return answer["data"]

    def names(self) -> set[str]:
        """Every metric that it has a sample of."""
        return set(self.ask("label/__name__/values"))

    def value_of(self, expression: str) -> Sequence[dict[str, Any]]:
        return list(self.ask("query", query=expression)["result"])


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """The configuration of deploy/prometheus with another target, and every second."""
    configuration = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES)]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    address = free_address()
    command = [
        tool("prometheus", INSTALL),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
    ]
    with Program(command) as running:
        running.wait_for_line("Server is ready to receive web requests")
        yield Prometheus(f"http://{address}")
        running.alive()


class Load:
    """Requests of all kinds, over and over, in a thread, until the block ends."""

    def __init__(self, target: str, profile: Path) -> None:
        self._target = target
        self._profile = profile
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failure: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with Client(self._target) as client:
                number = 0
                while not self._ended.is_set():
                    number += 1
                    texts = [f"text {place} of round {number}" for place in range(12)]
                    client.rerank(f"query {number}", texts, budget_ms=500)
                    client.rerank(f"query {number}", texts, budget_ms=500)  # from the cache
                    client.rerank(f"query {number}", texts, budget_ms=500, reranker="pool")
                    client.rerank(f"query {number}", texts, budget_ms=2)
                    client.rerank(f"query {number}", texts, budget_ms=500, strategy=Strategy.NONE)
                    if number % 10 == 0:
                        self._profile.write_text(self._profile.read_text() + "\n")  # a change without meaning
                        with pytest.raises(RerankerNotFoundError):
                            client.rerank("query", texts, budget_ms=500, reranker="unknown")
                    time.sleep(0.12)  # so that shadow evaluation finds the sidecar idle
        except BaseException as error:  # noqa: BLE001 - said by the test that waits
            self.failure = error


@pytest.mark.timeout(300)
async def test_everything_that_is_looked_at_is_there_under_load(tmp_path: Path) -> None:
    """Each metric that a panel or an alert names is in a scrape, each panel has data, each rule evaluates, and a point
    of the latency panel names a trace that was exported."""
    tool("prometheus", INSTALL)
    async with FakePool() as pool:
        await asyncio.to_thread(_look, tmp_path, pool.url)


def _look(folder: Path, pool: str) -> None:
    metrics = free_address()
    with OtlpReceiver() as receiver:
        settings = model_settings(folder) | {
            "MILLIRANK_LISTEN__METRICS": metrics,
            "MILLIRANK_SHADOW__SHARE": "1.0",
            "MILLIRANK_SHADOW__RERANKER": "minilm-l6",
            "MILLIRANK_RERANKERS__POOL__STRATEGY": "cross_encoder",
            "MILLIRANK_RERANKERS__POOL__ENGINE": "http",
            "MILLIRANK_RERANKERS__POOL__URL": pool,
            "MILLIRANK_RERANKERS__POOL__MICRO_USD_PER_1K_DOCUMENTS": "1000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "NO_PROXY": "127.0.0.1",
        }
        with SidecarProcess(settings) as sidecar, prometheus(folder, metrics) as watching:
            (target,) = sidecar.addresses
            wait_until_ready(target)
            with Load(target, folder / "profile.json") as load:
                deadline = time.monotonic() + 90
                while (_missing(watching) or _without_data(watching)) and time.monotonic() < deadline:
                    assert load.failure is None, load.failure
                    time.sleep(1)
                assert _missing(watching) == set()
                assert _without_data(watching) == []
                evaluated = [rule for group in watching.ask("rules")["groups"] for rule in group["rules"]]
                assert {rule["health"] for rule in evaluated} == {"ok"}
                eventually(lambda: _exported(watching, receiver), "no exemplar names a trace that was exported")


def _missing(watching: Prometheus) -> set[str]:
    """Metrics that a rule or a panel names and nobody has seen."""
    expressions = [*(rule["expr"] for rule in rules()), *(expression for _, expression in QUERIES)]
    return set().union(*map(metric_names, expressions)) - watching.names()


def _without_data(watching: Prometheus) -> list[str]:
    """Panels that would be empty, with the expression that finds nothing."""

    def filled_in(expression: str) -> str:
        for variable, value in (("$__rate_interval", RATE_WINDOW), ("$job", ".*"), ("$instance", ".*")):
            expression = expression.replace(variable, value)
        return expression

    return [f"{title}: {own}" for title, own in QUERIES if not watching.value_of(filled_in(own))]


def _exported(watching: Prometheus, receiver: OtlpReceiver) -> bool:
    """Whether an exemplar of the latency histogram names a trace that the receiver has."""
    now = time.time()
    series = watching.ask(
        "query_exemplars",
        query="millirank_request_duration_milliseconds_bucket",
        start=f"{now - 60}",
        end=f"{now + 1}",
    )
    named = {each["labels"]["trace_id"] for one in series for each in one["exemplars"]}
    return bool(named & {span.trace_id.hex() for span in receiver.spans()})
