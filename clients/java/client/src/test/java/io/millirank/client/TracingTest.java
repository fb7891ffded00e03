package io.millirank.client;

import static io.millirank.client.Asking.DOCUMENTS;
import static io.opentelemetry.api.common.AttributeKey.booleanKey;
import static io.opentelemetry.api.common.AttributeKey.stringArrayKey;
import static io.opentelemetry.api.common.AttributeKey.stringKey;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Metadata;
import io.grpc.Status;
import io.millirank.client.testing.Behaviour;
import io.millirank.client.testing.FakeSidecar;
import io.opentelemetry.api.baggage.Baggage;
import io.opentelemetry.api.baggage.propagation.W3CBaggagePropagator;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.Scope;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.context.propagation.TextMapGetter;
import io.opentelemetry.context.propagation.TextMapPropagator;
import io.opentelemetry.context.propagation.TextMapSetter;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.testing.exporter.InMemorySpanExporter;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Spans and propagation. */
class TracingTest {
  private static final Duration ROOMY = Duration.ofSeconds(10);

  private final InMemorySpanExporter exporter = InMemorySpanExporter.create();
  private final FakeSidecar sidecar = FakeSidecar.start();
  private final OpenTelemetrySdk telemetry =
      telemetry(
          TextMapPropagator.composite(
              W3CTraceContextPropagator.getInstance(), W3CBaggagePropagator.getInstance()));
  private final Millirank client = Millirank.builder(sidecar.target()).openTelemetry(telemetry).build();

  @AfterEach
  void close() {
    client.close();
    sidecar.close();
    telemetry.close();
  }

  private OpenTelemetrySdk telemetry(TextMapPropagator propagator) {
    return OpenTelemetrySdk.builder()
        .setTracerProvider(
            SdkTracerProvider.builder().addSpanProcessor(SimpleSpanProcessor.create(exporter)).build())
        .setPropagators(ContextPropagators.create(propagator))
        .build();
  }

  private Ranking<String> rerank(Request.Builder<String> request, boolean async) {
    return async ? Asking.join(client.rerankAsync(request.build())) : client.rerank(request.build());
  }

  private SpanData onlySpan() {
    List<SpanData> spans = exporter.getFinishedSpanItems();
    assertEquals(1, spans.size());
    return spans.get(0);
  }

  private String header(String name) {
    return sidecar.received().get(0).headers().get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
  }

  /** Name, kind, rpc.* and millirank.* attributes tell what was asked and how it ended; making a client is no span. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void aRerankIsOneClientSpan(boolean async) {
    sidecar.behave(Behaviour.partial(2, Reason.OVERLOADED));

    rerank(Request.builder("query", DOCUMENTS).budget(ROOMY), async);

    SpanData span = onlySpan();
    assertEquals("millirank.v1.RerankService/Rerank", span.getName());
    assertEquals(SpanKind.CLIENT, span.getKind());
    assertEquals(
        Attributes.builder()
            .put("rpc.system.name", "grpc")
            .put("rpc.method", "millirank.v1.RerankService/Rerank")
            .put("rpc.response.status_code", "OK")
            .put("server.address", "127.0.0.1")
            .put("server.port", Long.parseLong(sidecar.target().split(":")[1]))
            .put("millirank.budget_ms", 10_000.0)
            .put("millirank.documents", 4)
            .put("millirank.strategy", "cross_encoder")
            .put("millirank.reranker", "fake")
            .put("millirank.reason", "best_expected_gain")
            .put("millirank.planned_k", 4)
            .put("millirank.scored_k", 2)
            .put("millirank.completeness", "partial")
            .put(stringArrayKey("millirank.degradation"), List.of("overloaded"))
            .put("millirank.fallback", false)
            .put("millirank.cache", "miss")
            .build()
            .asMap(),
        span.getAttributes().asMap());
    assertEquals(StatusCode.UNSET, span.getStatus().getStatusCode());
  }

  /** The caller is served, the trace still shows that the sidecar was not there for it. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void aFallbackIsAnErrorOnTheSpan(boolean async) {
    sidecar.behave(Behaviour.failing(Status.Code.INTERNAL, "secret query text"));

    rerank(Request.builder("query", DOCUMENTS).budget(ROOMY), async);

    Attributes attributes = onlySpan().getAttributes();
    assertEquals(true, attributes.get(booleanKey("millirank.fallback")));
    assertEquals(List.of("sidecar_error"), attributes.get(stringArrayKey("millirank.degradation")));
    assertEquals("first_stage_only", attributes.get(stringKey("millirank.completeness")));
    assertEquals("INTERNAL", attributes.get(stringKey("rpc.response.status_code")));
    assertEquals(StatusCode.ERROR, onlySpan().getStatus().getStatusCode());
    assertEquals("sidecar_error", onlySpan().getStatus().getDescription());
  }

  /** Status ERROR and the type; no message, no stack, no event: they could hold text. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void anExceptionEndsTheSpanWithoutItsText(boolean async) {
    sidecar.behave(Behaviour.rejecting("query", "secret query text"));
    Request.Builder<String> secret = Request.builder("secret query", List.of("secret document")).budget(ROOMY);

    assertThrows(InvalidRequestException.class, () -> rerank(secret, async));

    assertEquals("InvalidRequestException", onlySpan().getAttributes().get(stringKey("error.type")));
    assertEquals(StatusCode.ERROR, onlySpan().getStatus().getStatusCode());
    assertFalse(onlySpan().toString().contains("secret"));
    assertEquals(List.of(), onlySpan().getEvents());
  }

  /** The sidecar gets this client's span as its parent, and the caller's baggage; the span has the caller's as its own. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void traceAndBaggageTravelToTheSidecar(boolean async) {
    Span caller = telemetry.getTracer("test").spanBuilder("search").startSpan();
    Context context = Context.current().with(caller).with(Baggage.builder().put("customer", "acme").build());
    try (Scope scope = context.makeCurrent()) {
      rerank(Request.builder("query", DOCUMENTS).budget(ROOMY), async);
    }

    SpanData span = onlySpan();
    assertEquals(caller.getSpanContext().getSpanId(), span.getParentSpanId());
    assertTrue(header("traceparent").startsWith("00-" + span.getTraceId() + "-" + span.getSpanId() + "-"));
    assertEquals("customer=acme", header("baggage"));
  }

  /** ExplainRoute is traced under its own name, with the context going along. */
  @Test
  void explainHasASpanOfItsOwn() {
    client.explain(Request.builder("query", DOCUMENTS).build());

    assertEquals("millirank.v1.RerankService/ExplainRoute", onlySpan().getName());
    assertTrue(header("traceparent").contains(onlySpan().getSpanId()));
  }

  /** A propagator's odd header costs that header, not the call. */
  @Test
  void headersThatGrpcRefusesAreLeftOut() {
    try (OpenTelemetrySdk unruly = telemetry(new Unruly());
        Millirank client = Millirank.builder(sidecar.target()).openTelemetry(unruly).build()) {
      assertFalse(client.rerank(Request.builder("query", DOCUMENTS).budget(ROOMY).build()).fallback());
    }
    assertEquals("kept", header("x-trace"));
    Metadata headers = sidecar.received().get(0).headers();
    assertFalse(headers.keys().contains("raw-bin"));
    assertFalse(headers.keys().contains("grpc-x"));
    assertNull(header("line"));
  }

  /** Writes what HTTP takes and gRPC does not. */
  private static final class Unruly implements TextMapPropagator {
    @Override
    public Collection<String> fields() {
      return List.of();
    }

    @Override
    public <C> void inject(Context context, C carrier, TextMapSetter<C> setter) {
      setter.set(carrier, "X-Trace", "kept");
      setter.set(carrier, "bad key", "x");
      setter.set(carrier, "grpc-x", "x");
      setter.set(carrier, "raw-bin", "x");
      setter.set(carrier, "line", "a\nb");
    }

    @Override
    public <C> Context extract(Context context, C carrier, TextMapGetter<C> getter) {
      return context;
    }
  }
}
