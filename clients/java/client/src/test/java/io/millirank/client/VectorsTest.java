package io.millirank.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.util.JsonFormat;
import io.millirank.client.Vector.Expected;
import io.millirank.client.testing.Received;
import io.millirank.v1.RerankRequest;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.DynamicContainer;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** What every Millirank client does, as data: all of tests/vectors, by {@code rerank} and by {@code rerankAsync}. */
class VectorsTest {
  private static final int TRIES = 3; // for took_ms only: a stall of the machine passes

  @TestFactory
  List<DynamicContainer> everyClientDoesThis() throws IOException {
    List<DynamicContainer> files = new ArrayList<>();
    for (Path file : Vector.files()) {
      List<DynamicTest> tests = new ArrayList<>();
      for (Vector vector : Vector.read(file)) {
        tests.add(DynamicTest.dynamicTest(vector.name(), () -> run(vector, false)));
        if (!vector.explain()) {
          tests.add(DynamicTest.dynamicTest(vector.name() + " (async)", () -> run(vector, true)));
        }
      }
      files.add(DynamicContainer.dynamicContainer(file.getFileName().toString(), tests));
    }
    assertFalse(files.isEmpty(), "no vectors found");
    return files;
  }

  private static void run(Vector vector, boolean async) throws Exception {
    double[] bound = vector.expected().bounds("took_ms");
    for (int tries = 1; ; tries++) {
      double tookMs;
      try {
        tookMs = runOnce(vector, async);
      } catch (AssertionError error) {
        throw new AssertionError(vector.name() + ": " + error.getMessage(), error);
      }
      if (bound == null || (bound[0] <= tookMs && tookMs <= bound[1])) {
        return;
      }
      assertTrue(
          tries < TRIES,
          "%s: took %.1f ms in the last of %d runs; allowed: %.0f to %.0f"
              .formatted(vector.name(), tookMs, TRIES, bound[0], bound[1]));
    }
  }

  /** Checks everything but took_ms, and returns that. */
  private static double runOnce(Vector vector, boolean async) throws Exception {
    try (ScriptedSidecar sidecar = ScriptedSidecar.start(vector.script());
        Millirank client = vector.client(sidecar.target())) {
      if (sidecar.speaks()) {
        assertTrue(client.awaitReady(Duration.ofSeconds(10)));
      }
      Expected expected = vector.expected();
      Request<Vector.Hit> request = null;
      Object outcome;
      long started = System.nanoTime();
      try {
        request = vector.request();
        started = System.nanoTime();
        outcome = ask(client, request, vector.explain(), async);
      } catch (MillirankException error) {
        outcome = error;
      }
      double tookMs = (System.nanoTime() - started) / 1e6;

      if (outcome instanceof MillirankException error) {
        assertError(expected, error);
      } else if (outcome instanceof Decision decision) {
        assertDecision(expected, decision);
      } else {
        assertRanking(expected, (Ranking<?>) outcome, request);
      }
      Thread.sleep(expected.settleMs());
      assertReceived(expected, sidecar.received());
      if (expected.stats() != null) {
        assertStats(expected.stats(), client.stats());
      }
      return tookMs;
    }
  }

  private static Object ask(Millirank client, Request<Vector.Hit> request, boolean explain, boolean async) {
    if (explain) {
      return client.explain(request);
    }
    return async ? Asking.join(client.rerankAsync(request)) : client.rerank(request);
  }

  private static void assertRanking(Expected expected, Ranking<?> ranking, Request<Vector.Hit> request) {
    assertFalse(expected.has("error"), () -> "no error, but " + ranking);
    expected.check("outcome", ranking.outcome().name());
    expected.check("fallback", ranking.fallback());
    expected.check("reasons", ranking.reasons().stream().map(Enum::name).toList());
    List<Integer> order = ranking.results().stream().map(Ranked::index).toList();
    expected.check("order", order);
    if (expected.has("first_stage_of")) {
      int count = expected.get("first_stage_of").getAsInt();
      assertEquals(IntStream.range(0, count).boxed().toList(), order);
    }
    expected.check("scores", ranking.results().stream().map(Ranked::score).toList());
    expected.check("raw_scores", ranking.results().stream().map(Ranked::rawScore).toList());
    expected.check("request_id", ranking.requestId());
    for (Ranked<?> each : ranking) {
      assertSame(request.documents.get(each.index()), each.document());
    }
    if (ranking.decision() != null) {
      assertDecision(expected, ranking.decision());
    }
  }

  private static void assertDecision(Expected expected, Decision decision) {
    expected.check("strategy", decision.strategy().name());
    expected.check("decision_reason", decision.reason().name());
  }

  private static void assertError(Expected expected, MillirankException error) {
    if (!expected.has("error")) {
      fail(error);
    }
    JsonObject wanted = expected.get("error").getAsJsonObject();
    Class<?> kind =
        switch (wanted.get("kind").getAsString()) {
          case "INVALID_REQUEST" -> InvalidRequestException.class;
          case "RERANKER_NOT_FOUND" -> RerankerNotFoundException.class;
          case "RERANKER_OFF" -> RerankerOffException.class;
          case "RERANK_FAILED" -> RerankException.class;
          default -> throw new IllegalArgumentException("unknown kind in " + wanted);
        };
    assertSame(kind, error.getClass());
    for (String key : wanted.keySet()) {
      JsonElement value = wanted.get(key);
      switch (key) {
        case "kind" -> {}
        case "field" -> assertEquals(value.getAsString(), ((InvalidRequestException) error).field());
        case "reason" -> assertEquals(value.getAsString(), ((RerankException) error).reason().name());
        case "code" -> assertEquals(value.getAsString(), ((RerankException) error).code());
        case "retry_after_ms" ->
            assertEquals(value.getAsLong(), ((RerankException) error).retryAfter().orElseThrow().toMillis());
        default -> throw new IllegalArgumentException("unknown key " + key);
      }
    }
  }

  private static void assertReceived(Expected expected, List<Received> received) throws IOException {
    expected.check("requests", received.size());
    if (!expected.has("sent") && !expected.has("latency_ms") && !expected.has("deadline_ms")) {
      return;
    }
    Received last = received.get(received.size() - 1);
    com.google.protobuf.Duration latency = last.request().getBudget().getLatency();
    expected.checkWithin("latency_ms", latency.getSeconds() * 1e3 + latency.getNanos() / 1e6);
    if (expected.has("deadline_ms")) {
      assertNotNull(last.deadlineLeft());
      expected.checkWithin("deadline_ms", last.deadlineLeft().toNanos() / 1e6);
    }
    if (expected.has("sent")) {
      RerankRequest.Builder wanted = RerankRequest.newBuilder();
      JsonFormat.parser().merge(expected.get("sent").toString(), wanted);
      RerankRequest.Builder sent = last.request().toBuilder();
      sent.getBudgetBuilder().clearLatency();
      assertEquals(wanted.build(), sent.build());
    }
  }

  private static void assertStats(JsonObject wanted, Stats stats) {
    Map<String, Object> expected = new HashMap<>();
    for (String key : wanted.keySet()) {
      if (key.equals("fallbacks")) {
        Map<Reason, Long> fallbacks = new HashMap<>();
        JsonObject counts = wanted.getAsJsonObject(key);
        counts.keySet().forEach(reason -> fallbacks.put(Reason.valueOf(reason), counts.get(reason).getAsLong()));
        expected.put(key, fallbacks);
      } else {
        expected.put(key, wanted.get(key).getAsLong());
      }
    }
    assertEquals(
        expected,
        Map.of(
            "calls", stats.calls(),
            "ranked", stats.ranked(),
            "partial", stats.partial(),
            "first_stage", stats.firstStage(),
            "raised", stats.raised(),
            "fallbacks", stats.fallbacks(),
            "late", stats.late()));
  }
}
