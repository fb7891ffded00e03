package io.millirank.examples.search;

import io.millirank.client.Decision;
import io.millirank.client.Millirank;
import io.millirank.client.Ranked;
import io.millirank.client.Ranking;
import io.opentelemetry.api.GlobalOpenTelemetry;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;

/** {@code Main TARGET FILE [QUESTION...]}: asks each question twice and prints the top 5 before and after reranking. */
public final class Main {
  private static final Duration BUDGET = Duration.ofMillis(50);
  private static final Duration PATIENCE = Duration.ofSeconds(30);
  private static final long IDLE_MS = 8_000;
  private static final int SHOWN = 5;
  private static final List<String> QUESTIONS = // the first that `millirank collection --questions` has
      List.of(
          "run a function later in another thread",
          "How do I make sure that at most five threads use the printer at the same moment?",
          "call blocking code from a coroutine without freezing the event loop");

  private Main() {}

  public static void main(String[] arguments) throws IOException, InterruptedException {
    if (arguments.length < 2) {
      System.err.println("usage: Main TARGET FILE [QUESTION...]; make example-java sets both up");
      System.exit(2);
    }
    List<String> questions =
        arguments.length > 2 ? Arrays.asList(arguments).subList(2, arguments.length) : QUESTIONS;
    try (LuceneIndex index = new LuceneIndex(Path.of(arguments[1]));
        Millirank millirank = Millirank.builder(arguments[0]).build()) {
      if (!millirank.awaitReady(PATIENCE)) {
        System.err.println("no sidecar at " + arguments[0] + ": the order stays Lucene's");
      }
      SearchService service = new SearchService(index, millirank, GlobalOpenTelemetry.getOrNoop(), BUDGET);
      System.out.printf("%,d documents in Lucene; its top 50 reranked within %d ms%n", index.size(), BUDGET.toMillis());
      ask(service, questions);
      System.out.printf("%nAgain, %d s later: an idle sidecar reads the documents it was sent.%n", IDLE_MS / 1000);
      Thread.sleep(IDLE_MS);
      ask(service, questions);
    }
  }

  private static void ask(SearchService service, List<String> questions) throws IOException {
    for (String question : questions) {
      print(System.out, question, service.search(question));
    }
  }

  static void print(PrintStream out, String question, SearchService.Results results) {
    Ranking<Hit> ranking = results.ranking();
    out.printf("%n%s%n   %-40s    %s%n", question, "Lucene", "reranked (Lucene's rank)");
    for (int rank = 0; rank < Math.min(SHOWN, results.found().size()); rank++) {
      Ranked<Hit> after = ranking.results().get(rank);
      out.printf(
          "%2d %-40.40s    %s (%d)%n",
          rank + 1, results.found().get(rank).id(), after.document().id(), after.index() + 1);
    }
    out.printf("   %s in %.1f ms: %s%n", ranking.outcome(), ranking.elapsed().toNanos() / 1e6, why(ranking));
  }

  private static String why(Ranking<Hit> ranking) {
    Decision decision = ranking.decision();
    String reasons =
        ranking.degradations().stream()
            .map(each -> "; " + each.reason() + ", " + each.detail())
            .collect(Collectors.joining());
    if (decision == null) {
      return "Lucene's order, kept by the client" + reasons;
    }
    String detail = decision.chosen().map(arm -> ", " + arm.detail()).orElse("");
    return "%s, scored %d of %d planned (%s%s)%s"
        .formatted(
            (decision.strategy() + " " + decision.reranker()).strip(),
            decision.scoredK(),
            decision.plannedK(),
            decision.reason(),
            detail,
            reasons);
  }
}
