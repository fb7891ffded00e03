"""Where telemetry goes in tests: a real gRPC server that implements OTLP's trace and metrics services and keeps all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """``with OtlpReceiver() as receiver``: export to `endpoint`, then wait for what should come."""

    def __init__(self) -> None:
        self._exports: list[Any] = []
        self._changed = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self._keep), self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(self._keep), self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def exported_bytes(self) -> bytes:
        """Everything that was exported so far, as it came."""
        with self._changed:
            return b"".join(export.SerializeToString() for export in self._exports)

    def spans(self) -> list[Span]:
        """Every span so far, in the order of arrival."""
        with self._changed:
            return [
                span
                for export in self._exports
                if isinstance(export, trace_service_pb2.ExportTraceServiceRequest)
                for resource in export.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def metric_names(self) -> set[str]:
        """Names of every metric so far."""
        with self._changed:
            return {
                metric.name
                for export in self._exports
                if isinstance(export, metrics_service_pb2.ExportMetricsServiceRequest)
                for resource in export.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }

    def metric_exports(self) -> int:
        """How often metrics have come."""
        kind = metrics_service_pb2.ExportMetricsServiceRequest
        with self._changed:
            return sum(isinstance(export, kind) for export in self._exports)

    def wait_until(self, condition: Callable[[], bool], patience_s: float = 30.0) -> None:
        """Until what has come satisfies ``condition``; fails when it does not come."""
        deadline = time.monotonic() + patience_s
        with self._changed:
            while not condition():
                assert self._changed.wait(deadline - time.monotonic()), [span.name for span in self.spans()]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def _keep(self, export: Any) -> None:
        with self._changed:
            self._exports.append(export)
            self._changed.notify_all()


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, keep: Callable[[Any], None]) -> None:
        self._keep = keep

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._keep(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, keep: Callable[[Any], None]) -> None:
        self._keep = keep

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._keep(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def attributes_of(span: Span) -> dict[str, Any]:
    """A span's attributes as plain values; lists stay lists."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {each.key: plain(each.value) for each in span.attributes}
