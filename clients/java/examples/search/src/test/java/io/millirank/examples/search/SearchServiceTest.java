package io.millirank.examples.search;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.millirank.client.Millirank;
import io.millirank.client.Outcome;
import io.millirank.client.Ranking;
import io.millirank.client.Reason;
import io.millirank.client.SidecarProcess;
import io.millirank.client.testing.Behaviour;
import io.millirank.client.testing.FakeSidecar;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.proto.trace.v1.Span;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.testing.exporter.InMemorySpanExporter;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The service over a small index: against a sidecar that answers as told, and against the real one. */
class SearchServiceTest {
  private static final Duration ROOMY = Duration.ofSeconds(30);
  private static final List<String> DOCUMENTS =
      List.of(
          "{\"id\": \"heapq.nlargest\", \"text\": \"Find the n largest elements in a dataset.\"}",
          "{\"id\": \"list.sort\", \"text\": \"Sort the list in ascending order and return None.\"}",
          "{\"id\": \"sorted\", \"text\": \"Return a new list containing all items from the iterable, sorted.\"}",
          "{\"id\": \"open\", \"text\": \"Open file and return a stream.\"}");

  private static LuceneIndex index(Path folder) throws IOException {
    return new LuceneIndex(Files.write(folder.resolve("documents.jsonl"), DOCUMENTS));
  }

  /** Lucene finds what has a word of the question, and the service shows it in the sidecar's order, and says why. */
  @Test
  void theSidecarsOrderIsShown(@TempDir Path folder) throws IOException {
    try (LuceneIndex index = index(folder);
        FakeSidecar sidecar = FakeSidecar.start(Behaviour.ranked());
        Millirank millirank = Millirank.builder(sidecar.target()).build()) {
      SearchService.Results results =
          new SearchService(index, millirank, OpenTelemetry.noop(), ROOMY).search("sort a list");
      assertEquals(List.of("list.sort", "sorted"), results.found().stream().map(Hit::id).toList());
      assertEquals(List.of("sorted", "list.sort"), results.ranking().documents().stream().map(Hit::id).toList());
      ByteArrayOutputStream printed = new ByteArrayOutputStream();
      Main.print(new PrintStream(printed, true, StandardCharsets.UTF_8), "sort a list", results);
      String text = printed.toString(StandardCharsets.UTF_8);
      assertTrue(text.contains("sorted (2)"), text);
      assertTrue(text.contains("RANKED") && text.contains("BEST_EXPECTED_GAIN"), text);
    }
  }

  /** Without a sidecar the service works as it did before it had one. */
  @Test
  void aDeadSidecarLeavesLucenesOrder(@TempDir Path folder) throws IOException {
    try (LuceneIndex index = index(folder);
        FakeSidecar sidecar = FakeSidecar.start();
        Millirank millirank = Millirank.builder(sidecar.target()).build()) {
      sidecar.stop();
      SearchService.Results results =
          new SearchService(index, millirank, OpenTelemetry.noop(), ROOMY).search("sort a list");
      assertEquals(results.found(), results.ranking().documents());
      assertEquals(List.of(Reason.SIDECAR_UNAVAILABLE), results.ranking().reasons());
    }
  }

  /** From this service's own span down to the sidecar's scoring chunks: one trace, each one's parent is the one above. */
  @Test
  void oneConnectedTreeOfSpans(@TempDir Path folder) throws Exception {
    InMemorySpanExporter mine = InMemorySpanExporter.create();
    try (OpenTelemetrySdk telemetry =
            OpenTelemetrySdk.builder()
                .setTracerProvider(
                    SdkTracerProvider.builder().addSpanProcessor(SimpleSpanProcessor.create(mine)).build())
                .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance()))
                .build();
        OtlpReceiver receiver = OtlpReceiver.start();
        SidecarProcess sidecar =
            SidecarProcess.start(
                Map.of("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint(), "OTEL_BSP_SCHEDULE_DELAY", "50"));
        LuceneIndex index = index(folder);
        Millirank millirank =
            Millirank.builder(sidecar.addresses().get(0)).openTelemetry(telemetry).build()) {
      assertTrue(millirank.awaitReady(ROOMY));
      SearchService service = new SearchService(index, millirank, telemetry, ROOMY);
      Ranking<Hit> ranking = service.search("sort a list").ranking();
      long patience = System.nanoTime() + ROOMY.toNanos();
      while ((ranking.outcome() != Outcome.RANKED || ranking.decision().scoredK() == 0) && System.nanoTime() < patience) {
        Thread.sleep(100); // the model is loading
        mine.reset();
        ranking = service.search("sort a list").ranking();
      }
      assertEquals(2, ranking.decision().scoredK(), ranking::toString);

      SpanData search = only(mine, "search");
      SpanData client = only(mine, "millirank.v1.RerankService/Rerank");
      assertFalse(search.getParentSpanContext().isValid());
      assertEquals(search.getSpanId(), client.getParentSpanId());

      List<Span> theirs = receiver.trace(client.getTraceId(), Set.of("route", "score"), ROOMY);
      Map<String, List<Span>> byName = theirs.stream().collect(Collectors.groupingBy(Span::getName));
      assertEquals(Set.of("millirank.v1.RerankService/Rerank", "route", "score"), byName.keySet());
      Span server = byName.get("millirank.v1.RerankService/Rerank").get(0);
      assertEquals(client.getSpanId(), OtlpReceiver.hex(server.getParentSpanId()));
      for (Span below : theirs) {
        if (below != server) {
          assertEquals(server.getSpanId(), below.getParentSpanId(), below.getName());
        }
      }
    }
  }

  private static SpanData only(InMemorySpanExporter exporter, String name) {
    List<SpanData> named =
        exporter.getFinishedSpanItems().stream().filter(span -> span.getName().equals(name)).toList();
    assertEquals(1, named.size(), name);
    return named.get(0);
  }
}
