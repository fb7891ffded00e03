package io.millirank.examples.search;

import io.millirank.client.Millirank;
import io.millirank.client.Ranking;
import io.millirank.client.Request;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.context.Scope;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/** Finds with Lucene, reranks with Millirank. What a service adds to have its results reranked is {@link #rerank}. */
final class SearchService {
  private static final int CANDIDATES = 50;

  private final LuceneIndex index;
  private final Millirank millirank;
  private final OpenTelemetry telemetry;
  private final Duration budget;

  SearchService(LuceneIndex index, Millirank millirank, OpenTelemetry telemetry, Duration budget) {
    this.index = index;
    this.millirank = millirank;
    this.telemetry = telemetry;
    this.budget = budget;
  }

  /**
   * What a question is answered with.
   *
   * @param found Lucene's hits, best first
   * @param ranking the same hits in the order to show them in
   */
  record Results(List<Hit> found, Ranking<Hit> ranking) {}

  Results search(String question) throws IOException {
    Span span = telemetry.getTracer("search").spanBuilder("search").startSpan();
    try (Scope scope = span.makeCurrent()) {
      List<Hit> hits = index.search(question, CANDIDATES);
      return new Results(hits, rerank(question, hits));
    } finally {
      span.end();
    }
  }

  private Ranking<Hit> rerank(String question, List<Hit> hits) {
    return millirank.rerank(
        Request.builder(question, hits, Hit::text)
            .id(Hit::id)
            .signals(hit -> Map.of("bm25", hit.bm25()))
            .budget(budget)
            .build());
  }
}
