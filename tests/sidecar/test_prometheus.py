"""What Prometheus reads: names, labels, buckets and exemplars, checked with the parser of Prometheus' own library."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from prometheus_client.samples import Sample

from sidecar.listeners import ListenError
from sidecar.metrics_server import MetricsServer
from sidecar.prometheus import scrape

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Meters:
    """Instruments of a test, read as Prometheus does."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], Resource({"service.name": 'a "shop"'}), shutdown_on_exit=False)
        self.meter = self.provider.get_meter("tests")

    def samples(self, accept: str = OPEN_METRICS) -> list[Sample]:
        body, content_type = scrape(self.reader, accept)
        parse = text_string_to_metric_families if "openmetrics" in content_type else parse_plain
        return [sample for family in parse(body.decode()) for sample in family.samples]


@pytest.fixture
def meters() -> Iterator[Meters]:
    made = Meters()
    yield made
    made.provider.shutdown()


@pytest.mark.parametrize("accept", [OPEN_METRICS, "", "text/plain", "nonsense;;=,"])
def test_a_histogram_in_both_formats(meters: Meters, accept: str) -> None:
    """Unit in the name, cumulative counts, +Inf, sum and count; a value on a bound is in that bound's bucket."""
    histogram = meters.meter.create_histogram("a.b", "ms", "words", explicit_bucket_boundaries_advisory=(1, 2.5))
    for value in (0.5, 1.0, 2.0, 9.0):
        histogram.record(value, {"x.y": "z"})
    found = {(each.name, each.labels.get("le", "")): each.value for each in meters.samples(accept)}
    assert {bound: found["a_b_milliseconds_bucket", bound] for bound in ("1.0", "2.5", "+Inf")} == {
        "1.0": 2,
        "2.5": 3,
        "+Inf": 4,
    }
    assert found["a_b_milliseconds_sum", ""] == 12.5
    assert found["a_b_milliseconds_count", ""] == 4


def test_counters_and_gauges(meters: Meters) -> None:
    """A counter ends with _total, a gauge of unit 1 with _ratio, what can fall again is a gauge."""
    meters.meter.create_counter("one", "{pair}").add(2)
    meters.meter.create_observable_gauge("two", [lambda _: []], "1")
    meters.meter.create_gauge("three", "1").set(0.5)
    meters.meter.create_up_down_counter("four").add(-3)
    found = {each.name: each.value for each in meters.samples()}
    assert found == {"one_total": 2, "three_ratio": 0.5, "four": -3, "target_info": 1}


def test_points_with_different_attributes_share_a_family(meters: Meters) -> None:
    """What a point does not have is an empty label, as Prometheus sees it; hostile values stay values."""
    counter = meters.meter.create_counter("one")
    counter.add(1, {"a": 'x"} 1\n# EOF'})
    counter.add(2, {"b": "y\\"})
    assert sorted(
        (each.labels["a"], each.labels["b"], each.value) for each in meters.samples() if each.name[0] == "o"
    ) == [
        ("", "y\\", 2),
        ('x"} 1\n# EOF', "", 1),
    ]


def test_exemplars_name_the_trace(meters: Meters) -> None:
    """The bucket of a value that was recorded within a sampled span names it; without a span there is none."""
    histogram = meters.meter.create_histogram("a", "ms", explicit_bucket_boundaries_advisory=(1, 2))
    histogram.record(0.5)
    with TracerProvider(shutdown_on_exit=False).get_tracer("tests").start_as_current_span("request") as span:
        histogram.record(2.0)
    exemplars = {each.labels["le"]: each.exemplar for each in meters.samples() if each.name.endswith("_bucket")}
    assert exemplars["1.0"] is None
    assert exemplars["+Inf"] is None
    exemplar = exemplars["2.0"]
    assert exemplar is not None
    assert exemplar.labels["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert exemplar.value == 2.0


async def test_the_listener_serves_metrics_and_nothing_else(meters: Meters) -> None:
    """GET /metrics with its content type; any other path is not found."""
    meters.meter.create_counter("one").add(1)
    server = MetricsServer(meters.reader, "127.0.0.1:0")
    address = await server.start()

    def get(path: str) -> tuple[int, str, bytes]:
        asked = urllib.request.Request(f"http://{address}{path}", headers={"Accept": OPEN_METRICS})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, "", b""

    try:
        status, content_type, body = await asyncio.to_thread(get, "/metrics")
        assert (status, (await asyncio.to_thread(get, "/"))[0]) == (200, 404)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert re.search(rb"^one_total 1\.0$", body, re.MULTILINE)
        assert body.endswith(b"# EOF\n")
    finally:
        await server.stop()


async def test_an_address_that_cannot_be_opened(meters: Meters) -> None:
    """The setting, its value and how to write it."""
    with pytest.raises(ListenError, match=r"listen\.metrics is '9464'; write host:port"):
        await MetricsServer(meters.reader, "9464").start()
