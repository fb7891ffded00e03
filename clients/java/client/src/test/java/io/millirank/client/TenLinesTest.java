package io.millirank.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.millirank.client.testing.FakeSidecar;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.logging.Logger;
import org.junit.jupiter.api.Test;

/** What clients/README.md shows, line by line (tests/clients/test_ten_lines.py compares). */
class TenLinesTest {
  private static final Logger logger = Logger.getLogger("search");

  private record Hit(String body, double score) {}

  private static Millirank client() {
    Millirank millirank = Millirank.builder("127.0.0.1:50051").build(); // once; or "unix:/run/millirank/millirank.sock"
    return millirank;
  }

  private static List<Hit> page(Millirank millirank, String query, List<Hit> hits) {
    Ranking<Hit> ranking = millirank.rerank(
        Request.builder(query, hits, Hit::body)
            .signals(hit -> Map.of("bm25", hit.score()))
            .budget(Duration.ofMillis(50))
            .topN(10)
            .build());
    if (ranking.outcome() != Outcome.RANKED) {
      logger.info("less than planned: " + ranking.reasons());
    }
    return ranking.documents();
  }

  /** A sidecar's order reaches the service; where it is not there, the service's own order stays. */
  @Test
  void tenLinesAreEnough() {
    client().close();
    List<Hit> hits = List.of(new Hit("alpha", 2), new Hit("beta", 1));
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank millirank = Millirank.builder(sidecar.target()).build()) {
      List<Hit> found = hits;
      for (int i = 0; i < 3 && found.equals(hits); i++) { // 50 ms may pass on a machine that others load
        found = page(millirank, "query", hits);
      }
      assertEquals(List.of(hits.get(1), hits.get(0)), found);
      sidecar.stop();
      assertEquals(hits, page(millirank, "query", hits));
    }
  }
}
