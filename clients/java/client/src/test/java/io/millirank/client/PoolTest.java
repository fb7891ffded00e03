package io.millirank.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;

/**
 * A sidecar and a pool on Ray Serve are the same service: from either, this client gets the same order.
 *
 * <p>The variable names a file of lines: addresses and the expected order, both separated by commas, the reranker, the
 * query, then a document each. tests/ray writes it.
 */
@EnabledIfEnvironmentVariable(
    named = PoolTest.SAME_ORDER,
    matches = ".+",
    disabledReason = "SKIPPED: no pool to test against; run: pytest tests/ray")
class PoolTest {
  static final String SAME_ORDER = "MILLIRANK_SAME_ORDER";

  @Test
  void sameOrderFromSidecarAndPool() throws Exception {
    List<String> lines = Files.readAllLines(Path.of(System.getenv(SAME_ORDER)));
    Request<String> request =
        Request.builder(lines.get(3), lines.subList(4, lines.size()))
            .reranker(lines.get(2))
            .budget(Duration.ofSeconds(20))
            .useCache(false)
            .build();
    for (String address : lines.get(0).split(",")) {
      try (Millirank client = Millirank.builder(address).build()) {
        Ranking<String> ranking = client.rerank(request);
        assertEquals(Outcome.RANKED, ranking.outcome(), ranking::toString);
        List<String> order = new ArrayList<>();
        for (Ranked<String> ranked : ranking) {
          order.add(Integer.toString(ranked.index()));
        }
        assertEquals(List.of(lines.get(1).split(",")), order, address);
      }
    }
  }
}
