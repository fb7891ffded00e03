"""Metrics as Prometheus reads them: OpenMetrics text with exemplars, or the older format for who asks for that.

OpenTelemetry's own Prometheus exporter leaves exemplars out. Names follow "Prometheus and OpenMetrics compatibility" of
the OpenTelemetry specification, as a collector's exporter writes them, so that one dashboard reads both:
``millirank.request.duration`` in ms becomes ``millirank_request_duration_milliseconds``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    Sum,
)
from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

_UNITS = {"ms": "milliseconds", "s": "seconds", "By": "bytes"}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")


def scrape(reader: InMemoryMetricReader, accept: str) -> tuple[bytes, str]:
    """Everything that was counted so far, in the format that ``accept`` (a request's header) asks for, and its content
    type. Takes milliseconds: call it in a thread."""
    # The stubs of the library want a registry; it asks for nothing but `collect`.
    encode, content_type = choose_encoder(accept)
    return encode(_Collected(reader.get_metrics_data())), content_type


class _Collected(Collector):
    """One reading."""

    def __init__(self, data: MetricsData | None) -> None:
        self._data = data

    def collect(self) -> Iterator[Family]:
        """Families of samples, the resource's attributes first."""
        for resource in self._data.resource_metrics if self._data else ():
            attributes = {_name(key): str(value) for key, value in resource.resource.attributes.items()}
            yield InfoMetricFamily("target", "What the metrics are of", value=attributes)
            for scope in resource.scope_metrics:
                yield from map(_family, scope.metrics)


def _family(metric: Metric) -> Family:
    name, description = _name(metric.name), metric.description or ""
    unit = _UNITS.get(metric.unit or "", "")
    points: list[Any] = list(metric.data.data_points)
    # One instrument's points may have different attributes; a family's samples all have the same labels.
    keys = sorted({key for point in points for key in point.attributes or ()})
    labels = [_name(key) for key in keys]
    rows: Iterable[tuple[Any, list[str]]] = ((point, _values(point.attributes, keys)) for point in points)
    match metric.data:
        case Histogram():
            histogram = HistogramMetricFamily(name, description, labels=labels, unit=unit)
            for point, row in rows:
                histogram.add_metric(row, _buckets(point), point.sum)
            return histogram
        case Sum(is_monotonic=True):
            counter = CounterMetricFamily(name, description, labels=labels, unit=unit)
            for point, row in rows:
                counter.add_metric(row, point.value)
            return counter
        case Sum() | Gauge():
            gauge = GaugeMetricFamily(name, description, labels=labels, unit=unit or "ratio" * (metric.unit == "1"))
            for point, row in rows:
                gauge.add_metric(row, point.value)
            return gauge
        case other:
            raise TypeError(f"{metric.name}: no instrument of ours makes {type(other).__name__}")


def _buckets(point: HistogramDataPoint) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Upper bound, count up to it, and the last sampled request that fell in."""
    bounds = point.explicit_bounds
    latest: dict[int, Exemplar] = {}
    for exemplar in sorted(point.exemplars, key=lambda each: each.time_unix_nano):
        if exemplar.trace_id and exemplar.span_id:
            labels = {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}
            place = bisect_left(bounds, exemplar.value)  # a bucket holds its upper bound
            latest[place] = Exemplar(labels, exemplar.value, exemplar.time_unix_nano / 1e9)
    texts = [*map(repr, map(float, bounds)), "+Inf"]
    counts = accumulate(point.bucket_counts)
    return [
        (text, count, latest[place]) if place in latest else (text, count)
        for place, (text, count) in enumerate(zip(texts, counts, strict=True))
    ]


def _values(attributes: Mapping[str, Any] | None, keys: Sequence[str]) -> list[str]:
    return [str((attributes or {}).get(key, "")) for key in keys]


def _name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)
