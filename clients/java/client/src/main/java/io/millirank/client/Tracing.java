package io.millirank.client;

import io.grpc.Metadata;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanBuilder;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.context.Context;
import java.util.List;
import java.util.Locale;
import java.util.function.Supplier;
import java.util.regex.Pattern;

/** The client span and the context that travels to the sidecar. OpenTelemetry API only; never any text. */
final class Tracing {
  private static final AttributeKey<List<String>> DEGRADATION = AttributeKey.stringArrayKey("millirank.degradation");
  // What gRPC takes as metadata (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md, Custom-Metadata).
  private static final Pattern METADATA_KEY = Pattern.compile("(?!grpc-)[0-9a-z_.-]+(?<!-bin)");
  private static final Pattern METADATA_VALUE = Pattern.compile("[\\x20-\\x7e]*");

  private final Supplier<OpenTelemetry> telemetry;
  private final String address;
  private final int port;

  Tracing(String target, Supplier<OpenTelemetry> telemetry) {
    this.telemetry = telemetry;
    this.address = Channels.serverAddress(target);
    this.port = Channels.serverPort(target);
  }

  /** A CLIENT span around one call, a child of the current one. The caller ends it. */
  Span start(String method, RerankCall<?> call) {
    String name = Methods.SERVICE + "/" + method;
    SpanBuilder builder =
        telemetry
            .get()
            .getTracer("io.millirank.client")
            .spanBuilder(name)
            .setSpanKind(SpanKind.CLIENT)
            .setAttribute("rpc.system.name", "grpc")
            .setAttribute("rpc.method", name)
            .setAttribute("server.address", address)
            .setAttribute("millirank.documents", (long) call.documents())
            .setAttribute("millirank.budget_ms", call.budgetMs());
    if (port != 0) {
      builder.setAttribute("server.port", (long) port);
    }
    return builder.startSpan();
  }

  /** {@code span} and the caller's baggage as the propagators write them, as far as gRPC can carry it. */
  Metadata headers(Span span) {
    Metadata headers = new Metadata();
    telemetry
        .get()
        .getPropagators()
        .getTextMapPropagator()
        .inject(Context.current().with(span), headers, Tracing::put);
    return headers;
  }

  /** Writes how a rerank ended on its span. */
  static void describe(Span span, Ranking<?> ranking) {
    span.setAttribute(
        "millirank.completeness",
        switch (ranking.outcome()) {
          case RANKED -> "full";
          case PARTIAL -> "partial";
          case FIRST_STAGE -> "first_stage_only";
        });
    span.setAttribute("millirank.fallback", ranking.fallback());
    if (!ranking.degradations().isEmpty()) {
      span.setAttribute(DEGRADATION, ranking.reasons().stream().map(Tracing::lower).toList());
    }
    Decision decision = ranking.decision();
    if (decision != null) {
      span.setAttribute("rpc.response.status_code", "OK");
      span.setAttribute("millirank.strategy", lower(decision.strategy()));
      span.setAttribute("millirank.reranker", decision.reranker());
      span.setAttribute("millirank.reason", lower(decision.reason()));
      span.setAttribute("millirank.planned_k", (long) decision.plannedK());
      span.setAttribute("millirank.scored_k", (long) decision.scoredK());
      span.setAttribute("millirank.cache", lower(ranking.cacheStatus()));
    }
  }

  /** Writes that the sidecar gave no usable answer, whatever the caller gets instead. */
  static void describe(Span span, Reply.Failure failure) {
    if (!failure.code().isEmpty()) {
      span.setAttribute("rpc.response.status_code", failure.code());
    }
    error(span, lower(failure.reason()));
  }

  /** Writes that the call ended by an exception: its type, never its message, which can hold text. */
  static void describe(Span span, Throwable thrown) {
    error(
        span,
        thrown instanceof RerankException failed ? lower(failed.reason()) : thrown.getClass().getSimpleName());
  }

  private static void error(Span span, String type) {
    span.setAttribute("error.type", type);
    span.setStatus(StatusCode.ERROR, type);
  }

  private static void put(Metadata headers, String key, String value) {
    String name = key.toLowerCase(Locale.ROOT);
    // One bad pair would cost the whole call.
    if (METADATA_KEY.matcher(name).matches() && METADATA_VALUE.matcher(value).matches()) {
      headers.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value);
    }
  }

  private static String lower(Enum<?> value) {
    return value.name().toLowerCase(Locale.ROOT);
  }
}
