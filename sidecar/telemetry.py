"""OpenTelemetry: tracer and instruments, configured by the standard ``OTEL_*`` variables. Never any text.

Nothing is exported, and next to nothing is paid, until an exporter is configured: set OTEL_EXPORTER_OTLP_ENDPOINT
(or the traces / metrics variants), or OTEL_TRACES_EXPORTER / OTEL_METRICS_EXPORTER to ``otlp`` or ``console``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeterProvider, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import NoOpTracerProvider, Span, Tracer
from opentelemetry.util.types import AttributeValue

from router.arms import Strategy
from router.policy import Reason
from sidecar.messages import Answer, CacheStatus, Completeness
from sidecar.scheduler import Scheduler
from sidecar.settings import Mode

_SCOPE = "millirank.sidecar"
_DEFAULT_SERVICE_NAME = "millirank"
# Budgets are milliseconds: the SDK's default buckets (5 ms and up, in ms) are too coarse at the low end.
_DURATION_BUCKETS_MS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000)
_LAG_BUCKETS_MS = (0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 10, 15, 20, 30, 50, 100, 250, 1000)
_SHARE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.02, 1.05, 1.1, 1.5, 2.0)


class TelemetryError(Exception):
    """An ``OTEL_*`` variable asks for something that is not there. The message names it and the fix."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the process traces and counts with."""

    tracer: Tracer
    metrics: Metrics
    _tracer_provider: TracerProvider | None
    _meter_provider: MeterProvider | None

    def close(self) -> None:
        """Export what is left. Blocks until that is done or the exporter's own timeout ends."""
        if self._tracer_provider is not None:
            self._tracer_provider.shutdown()
        if self._meter_provider is not None:
            self._meter_provider.shutdown()


class Metrics:
    """The instruments of DESIGN section 9 that have something to say so far."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._duration = meter.create_histogram(
            "millirank.request.duration",
            "ms",
            "Time from a request's bytes to its answer's",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS_MS,
        )
        self._budget_use = meter.create_histogram(
            "millirank.budget.use",
            "1",
            "Time taken as a share of what could be spent",
            explicit_bucket_boundaries_advisory=_SHARE_BUCKETS,
        )
        self._prediction = meter.create_histogram(
            "millirank.prediction.ratio",
            "1",
            "Actual over predicted median time of complete, uncached arms",
            explicit_bucket_boundaries_advisory=_SHARE_BUCKETS,
        )
        self._pairs = meter.create_counter(
            "millirank.pairs",
            "{pair}",
            "Query-document pairs that were scored: computed, or kept from before",
        )
        self._degradations = meter.create_counter("millirank.degradations", "1", "Answers that were less than planned")
        self._cost = meter.create_counter("millirank.cost", "{micro_usd}", "Price of what was computed")
        self._errors = meter.create_counter("millirank.errors", "1", "Requests answered with an error")
        self._shadow_rbo = meter.create_histogram(
            "millirank.shadow.rbo",
            "1",
            "Agreement of an answer's order with the reference's: rank-biased overlap, p = 0.9",
            explicit_bucket_boundaries_advisory=_SHARE_BUCKETS,
        )
        self._shadow_ndcg = meter.create_histogram(
            "millirank.shadow.ndcg",
            "1",
            "nDCG@10 of an answer with the reference's scores as gains",
            explicit_bucket_boundaries_advisory=_SHARE_BUCKETS,
        )
        self._shadow_dropped = meter.create_counter("millirank.shadow.dropped", "1", "Drawn, but not evaluated")
        self._lost = meter.create_counter("millirank.records.dropped", "1", "Records that no file took")
        self._reloads = meter.create_counter("millirank.profile.reloads", "1", "Changed profiles, taken or refused")
        self.loop_lag = meter.create_histogram(
            "millirank.loop.lag",
            "ms",
            "How much later than asked for the event loop did something",
            explicit_bucket_boundaries_advisory=_LAG_BUCKETS_MS,
        )

    def watch(self, schedulers: Mapping[str, Scheduler]) -> None:
        """Report, whenever metrics are exported, what local models do; ``schedulers`` by the reranker's name."""

        def computed(options: CallbackOptions) -> Iterable[Observation]:
            for name, scheduler in schedulers.items():
                yield Observation(scheduler.computed_ms, {"millirank.reranker": name})

        def waiting(options: CallbackOptions) -> Iterable[Observation]:
            for name, scheduler in schedulers.items():
                yield Observation(scheduler.waiting, {"millirank.reranker": name})

        self._meter.create_observable_counter(
            "millirank.compute", [computed], "ms", "Time that local models have computed, whether or not it was used"
        )
        self._meter.create_observable_gauge(
            "millirank.queue.requests", [waiting], "{request}", "Requests that wait for a local model"
        )

    def answered(self, answer: Answer) -> None:
        """Count one answer."""
        decision = answer.explanation.decision
        outcome = answer.outcome
        labels = _labels(
            decision.strategy,
            decision.reranker,
            decision.reason,
            outcome.completeness,
            answer.cache,
            answer.explanation.mode,
        )
        self._duration.record(answer.timing.total_ms, labels)
        if answer.explanation.spendable_ms > 0:
            # One label: who wants the rest looks at the durations.
            by_strategy = {"millirank.strategy": labels["millirank.strategy"]}
            self._budget_use.record(answer.timing.total_ms / answer.explanation.spendable_ms, by_strategy)
        for degradation in outcome.degradations:
            self._degradations.add(1, {"millirank.degradation": degradation.reason})
        if outcome.usage.pairs:
            kept = outcome.usage.cached_pairs
            for how, count in (("kept", kept), ("computed", outcome.usage.pairs - kept)):
                if count:
                    self._pairs.add(count, {"millirank.reranker": decision.reranker, "millirank.cache": how})
        if outcome.usage.micro_usd:
            self._cost.add(outcome.usage.micro_usd, {"millirank.reranker": decision.reranker})
        if outcome.score_ms > 0 and not outcome.degradations and decision.predicted_p50_ms > 0:
            taken_ms = outcome.queue_ms + outcome.score_ms
            self._prediction.record(taken_ms / decision.predicted_p50_ms, {"millirank.reranker": decision.reranker})

    def failed(self, code: str) -> None:
        """Count one error."""
        self._errors.add(1, {"rpc.grpc.status_code": code})

    def shadow_evaluated(self, strategy: str, rbo: float, ndcg: float | None) -> None:
        """Record how far an answer by ``strategy`` agrees with the reference; ``ndcg`` None: it has no opinion."""
        by_strategy = {"millirank.strategy": strategy}
        self._shadow_rbo.record(rbo, by_strategy)
        if ndcg is not None:
            self._shadow_ndcg.record(ndcg, by_strategy)

    def shadow_dropped(self, reason: str) -> None:
        """Count one request that was drawn for shadow evaluation in vain."""
        self._shadow_dropped.add(1, {"millirank.reason": reason})

    def record_dropped(self, kind: str) -> None:
        """Count one record (of a ``decision``, a ``shadow`` evaluation) that was lost."""
        self._lost.add(1, {"millirank.record": kind})

    def profiles_reloaded(self, accepted: bool) -> None:
        """Count one change of the profile files."""
        self._reloads.add(1, {"millirank.outcome": "accepted" if accepted else "refused"})


@functools.lru_cache(maxsize=1024)
def _labels(
    strategy: Strategy, reranker: str, reason: Reason, completeness: Completeness, cache: CacheStatus, mode: Mode
) -> Mapping[str, str]:
    """Kept, as plain strings: an enum's member takes the SDK three times as long to look up."""
    return {
        "millirank.strategy": strategy.value,
        "millirank.reranker": reranker,
        "millirank.reason": reason.value,
        "millirank.completeness": completeness.value,
        "millirank.cache": cache.value,
        "millirank.mode": mode.value,
    }


def describe(span: Span, answer: Answer) -> None:
    """What became of the request, on its server span; what was predicted for it is on `route`.

    Every attribute costs microseconds here and in the exporter's thread, which takes them from the event loop: what
    is empty or zero is left out.
    """
    if not span.is_recording():
        return
    decision = answer.explanation.decision
    outcome = answer.outcome
    attributes: dict[str, AttributeValue] = {
        "millirank.request_id": answer.request_id,
        "millirank.strategy": decision.strategy.value,
        "millirank.reason": decision.reason.value,
        "millirank.completeness": outcome.completeness.value,
        "millirank.budget_ms": round(answer.explanation.spendable_ms, 3),
    }
    if answer.explanation.mode is not Mode.ON:
        attributes["millirank.mode"] = answer.explanation.mode.value
    if decision.planned_k:
        attributes |= {
            "gen_ai.operation.name": "rerank",
            "millirank.decision_id": answer.explanation.decision_id,
            "millirank.reranker": decision.reranker,
            "millirank.planned_k": decision.planned_k,
            "millirank.scored_k": outcome.scored_k,
            "millirank.predicted_p95_ms": round(decision.predicted_p95_ms, 3),
            "millirank.expected_gain": round(decision.expected_gain, 5),
            "millirank.queue_ms": round(answer.timing.queue_ms, 3),
            "millirank.score_ms": round(answer.timing.score_ms, 3),
            "millirank.cache": answer.cache.value,
        }
    if outcome.usage.cached_pairs:
        attributes["millirank.cached_pairs"] = outcome.usage.cached_pairs
    if outcome.degradations:
        attributes["millirank.degradation"] = [degradation.reason.value for degradation in outcome.degradations]
    span.set_attributes(attributes)


def set_up(environment: Mapping[str, str], span_processor: SpanProcessor | None = None) -> Telemetry:
    """Telemetry as the environment asks for it; ``span_processor`` sees every span besides.

    Raises TelemetryError for an exporter or protocol that is not there.
    """
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
    metric_exporter = _metric_exporter(environment)
    meter_provider = None
    if metric_exporter is not None:
        reader = PeriodicExportingMetricReader(metric_exporter)
        meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    return Telemetry(
        tracer=(tracer_provider or NoOpTracerProvider()).get_tracer(_SCOPE),
        metrics=Metrics((meter_provider or NoOpMeterProvider()).get_meter(_SCOPE)),
        _tracer_provider=tracer_provider,
        _meter_provider=meter_provider,
    )


def _choice(environment: Mapping[str, str], signal: str) -> str:
    """Which exporter one signal (TRACES, METRICS) uses: 'none', 'console', 'otlp:grpc' or 'otlp:http/protobuf'."""
    name = f"OTEL_{signal}_EXPORTER"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    default = "otlp" if any(environment.get(endpoint) for endpoint in endpoints) else "none"
    choice = environment.get(name, default) or default
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or choice == "none":
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
