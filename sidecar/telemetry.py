"""OpenTelemetry: tracer and instruments, configured by the standard ``OTEL_*`` variables. Never any text.

Nothing is exported, and next to nothing is paid, until an exporter is configured: set OTEL_EXPORTER_OTLP_ENDPOINT
(or the traces / metrics variants), or OTEL_TRACES_EXPORTER / OTEL_METRICS_EXPORTER to ``otlp`` or ``console``.
Prometheus reads metrics where the setting ``listen.metrics`` says, with or without these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import NoOpTracerProvider, Tracer

from sidecar.metrics import Metrics

_SCOPE = "millirank.sidecar"
_DEFAULT_SERVICE_NAME = "millirank"


class TelemetryError(Exception):
    """An ``OTEL_*`` variable asks for something that is not there. The message names it and the fix."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the process traces and counts with."""

    tracer: Tracer
    metrics: Metrics
    scraped: InMemoryMetricReader | None
    """What ``listen.metrics`` reads; None where that is off."""
    _tracer_provider: TracerProvider | None
    _meter_provider: MeterProvider | None

    def close(self) -> None:
        """Export what is left. Blocks until that is done or the exporter's own timeout ends."""
        if self._tracer_provider is not None:
            self._tracer_provider.shutdown()
        if self._meter_provider is not None:
            self._meter_provider.shutdown()


def set_up(
    environment: Mapping[str, str], span_processor: SpanProcessor | None = None, *, prometheus: bool = False
) -> Telemetry:
    """Telemetry as the environment asks for it; ``span_processor`` sees every span besides, and ``prometheus`` keeps
    metrics for a scraper.

    Raises TelemetryError for an exporter or protocol that is not there.
    """
    if prometheus and _disabled(environment):
        raise TelemetryError("listen.metrics is set, but OTEL_SDK_DISABLED is true: unset one of them")
    # What is passed to Resource.create wins over the environment, so the default name must not be passed always.
    named = environment.get("OTEL_SERVICE_NAME") or SERVICE_NAME in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {SERVICE_NAME: _DEFAULT_SERVICE_NAME})
    span_exporter = _span_exporter(environment)
    tracer_provider = None
    if span_exporter is not None or span_processor is not None:
        tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        if span_exporter is not None:
            tracer_provider.add_span_processor(BatchSpanProcessor(span_exporter))
        if span_processor is not None:
            tracer_provider.add_span_processor(span_processor)
    readers: list[MetricReader] = []
    metric_exporter = _metric_exporter(environment)
    if metric_exporter is not None:
        readers.append(PeriodicExportingMetricReader(metric_exporter))
    scraped = InMemoryMetricReader() if prometheus else None
    if scraped is not None:
        readers.append(scraped)
    meter_provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False) if readers else None
    return Telemetry(
        tracer=(tracer_provider or NoOpTracerProvider()).get_tracer(_SCOPE),
        metrics=Metrics((meter_provider or NoOpMeterProvider()).get_meter(_SCOPE)),
        scraped=scraped,
        _tracer_provider=tracer_provider,
        _meter_provider=meter_provider,
    )


def _disabled(environment: Mapping[str, str]) -> bool:
    return environment.get("OTEL_SDK_DISABLED", "").lower() == "true"


def _choice(environment: Mapping[str, str], signal: str) -> str:
    """Which exporter one signal (TRACES, METRICS) uses: 'none', 'console', 'otlp:grpc' or 'otlp:http/protobuf'."""
    name = f"OTEL_{signal}_EXPORTER"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    default = "otlp" if any(environment.get(endpoint) for endpoint in endpoints) else "none"
    choice = environment.get(name, default) or default
    if _disabled(environment) or choice == "none":
        return "none"
    if choice == "console":
        return choice
    if choice != "otlp":
        raise TelemetryError(f"{name} is {choice!r}; use otlp, console or none")
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environment.get(name)
        if protocol in ("grpc", "http/protobuf"):
            return f"otlp:{protocol}"
        if protocol:
            raise TelemetryError(f"{name} is {protocol!r}; use grpc or http/protobuf")
    return "otlp:grpc"


def _span_exporter(environment: Mapping[str, str]) -> SpanExporter | None:
    match _choice(environment, "TRACES"):
        case "none":
            return None
        case "console":
            return ConsoleSpanExporter()
        case "otlp:grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

            return GrpcExporter()
        case _:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

            return HttpExporter()


def _metric_exporter(environment: Mapping[str, str]) -> MetricExporter | None:
    match _choice(environment, "METRICS"):
        case "none":
            return None
        case "console":
            return ConsoleMetricExporter()
        case "otlp:grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
                OTLPMetricExporter as GrpcExporter,
            )

            return GrpcExporter()
        case _:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
                OTLPMetricExporter as HttpExporter,
            )

            return HttpExporter()
