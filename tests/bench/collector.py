"""A real OTLP receiver on loopback: what a sidecar with telemetry on exports to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_SERVICES = (
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
)
_TRACES = _SERVICES[0]


class Collector:
    """A context manager. Exports are kept as bytes, so that receiving them takes no time from what is measured."""

    def __init__(self) -> None:
        self._exports: list[bytes] = []
        self._metrics = b""
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        for service in _SERVICES:
            self._server.add_generic_rpc_handlers((self._handler(service),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def environment(self) -> dict[str, str]:
        """What a sidecar needs to export traces and metrics to here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}"}

    @property
    def latest_metrics(self) -> bytes:
        """The last ExportMetricsServiceRequest; empty before the first. Its sums and histograms are cumulative."""
        return self._metrics

    def server_spans(self) -> int:
        """How many requests' server spans have come in so far."""
        return sum(
            span.kind == Span.SPAN_KIND_SERVER
            for data in tuple(self._exports)
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def _handler(self, service: str) -> grpc.GenericRpcHandler:
        def export(data: bytes, context: grpc.ServicerContext) -> bytes:
            if service == _TRACES:
                self._exports.append(data)
            else:
                self._metrics = data
            return b""  # an Export*ServiceResponse without partial success

        return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})
