package io.millirank.client;

import io.millirank.v1.RerankResponse;
import io.millirank.v1.Result;
import java.time.Duration;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;

/** Answers of the sidecar -> plain records, after checking that they can be used. */
final class Answers {
  private Answers() {}

  /** The answer is no ordering of the candidates that were sent. Never leaves this package. */
  static final class UnusableException extends Exception {
    private static final long serialVersionUID = 1L;

    UnusableException(String message) {
      super(message);
    }
  }

  /** The first {@code topN} candidates (0: all) as they came, unscored. */
  static <T> List<Ranked<T>> firstStage(List<T> documents, int topN) {
    int kept = expected(documents, topN);
    List<Ranked<T>> results = new ArrayList<>(kept);
    for (int index = 0; index < kept; index++) {
      results.add(new Ranked<>(documents.get(index), index, null, null, false));
    }
    return List.copyOf(results);
  }

  /**
   * The ranking in {@code response} of the request's documents, which took {@code elapsed}.
   *
   * @throws UnusableException where the results are no prefix of a permutation of the candidates (they may be fewer
   *     where the request has a min_score), a score is not finite, or the completeness is unknown
   */
  static <T> Ranking<T> ranking(RerankResponse response, Request<T> request, Duration elapsed)
      throws UnusableException {
    Outcome outcome =
        switch (response.getCompleteness()) {
          case COMPLETENESS_FULL -> Outcome.RANKED;
          case COMPLETENESS_PARTIAL -> Outcome.PARTIAL;
          case COMPLETENESS_FIRST_STAGE_ONLY -> Outcome.FIRST_STAGE;
          case COMPLETENESS_UNSPECIFIED, UNRECOGNIZED ->
              throw new UnusableException(
                  "completeness " + response.getCompletenessValue() + " is not known to this client");
        };
    io.millirank.v1.Timing timing = response.getTiming();
    io.millirank.v1.Usage usage = response.getUsage();
    return new Ranking<>(
        results(response.getResultsList(), request),
        outcome,
        response.getDegradationsList().stream()
            .map(each -> new Degradation(Enums.reason(each.getReason()), each.getDetail()))
            .toList(),
        false,
        response.getRequestId(),
        elapsed,
        decision(response.getDecision()),
        new Timing(
            duration(timing.getTotal()),
            duration(timing.getRoute()),
            duration(timing.getQueue()),
            duration(timing.getScore())),
        new Usage(usage.getPairs(), usage.getCachedPairs(), usage.getTokens(), usage.getCostMicroUsd()),
        Enums.cacheStatus(response.getCacheStatus()));
  }

  static Decision decision(io.millirank.v1.Decision decision) {
    return new Decision(
        decision.getId(),
        Enums.strategy(decision.getStrategy()),
        decision.getReranker(),
        decision.getModelRevision(),
        decision.getProfileCorpus(),
        decision.getProfileRevision(),
        decision.getPlannedK(),
        decision.getScoredK(),
        Enums.decisionReason(decision.getReason()),
        decision.getConsideredList().stream().map(Answers::arm).toList(),
        Enums.mode(decision.getMode()),
        duration(decision.getSpendable()));
  }

  static Duration duration(com.google.protobuf.Duration duration) {
    return Duration.ofSeconds(duration.getSeconds(), duration.getNanos());
  }

  private static ConsideredArm arm(io.millirank.v1.ConsideredArm arm) {
    return new ConsideredArm(
        Enums.strategy(arm.getStrategy()),
        arm.getReranker(),
        arm.getRerankK(),
        duration(arm.getPredictedP50()),
        duration(arm.getPredictedP95()),
        arm.getExpectedGain(),
        arm.getPredictedCostMicroUsd(),
        Enums.verdict(arm.getVerdict()),
        arm.getDetail());
  }

  private static <T> List<Ranked<T>> results(List<Result> results, Request<T> request) throws UnusableException {
    List<T> documents = request.documents;
    int expected = expected(documents, request.topN);
    if (results.size() > expected || (results.size() < expected && request.minScore == null)) {
      throw new UnusableException(results.size() + " results for " + expected + " expected ones");
    }
    BitSet seen = new BitSet(documents.size());
    List<Ranked<T>> ranked = new ArrayList<>(results.size());
    for (Result result : results) {
      int index = result.getIndex();
      if (index < 0 || index >= documents.size()) { // negative: above 2^31 on the wire
        throw new UnusableException(
            "result index " + Integer.toUnsignedString(index) + " for " + documents.size() + " documents");
      }
      if (seen.get(index)) {
        throw new UnusableException("result index " + index + " came twice");
      }
      seen.set(index);
      if (!Double.isFinite(result.getScore()) || !Double.isFinite(result.getRawScore())) {
        throw new UnusableException("the score of index " + index + " is not finite");
      }
      Double score = result.hasScore() ? result.getScore() : null;
      Double rawScore = result.hasRawScore() ? result.getRawScore() : null;
      ranked.add(new Ranked<>(documents.get(index), index, score, rawScore, result.getTruncated()));
    }
    return List.copyOf(ranked);
  }

  private static int expected(List<?> documents, int topN) {
    return topN == 0 ? documents.size() : Math.min(topN, documents.size());
  }
}
