package io.millirank.client;

import io.millirank.v1.RerankRequest;
import java.time.Duration;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * One rerank on its way: what was asked, how much time is left, and how it ends. No transport.
 *
 * <p>The caller's clock starts when this is made; only the monotonic clock is ever read.
 */
final class RerankCall<T> {
  private static final double MAX_RESERVE_SHARE = 0.1; // of the budget: 1 ms must not eat half of a budget of 2 ms

  private final long startedNs = System.nanoTime();
  private final Request<T> request;
  private final long budgetNs;
  private final long reserveNs;
  private final long slackNs;
  private final RerankRequest.Builder message;

  /**
   * @param reserve kept back from what the sidecar may spend, for the way there and back
   * @param slack what the gRPC deadline adds to the budget, so that a late answer can still be counted and a dead call
   *     still ends
   * @throws InvalidRequestException where the request is wrong
   */
  RerankCall(Request<T> request, Duration reserve, Duration slack) {
    this.request = request;
    this.budgetNs = RequestEncoder.checkBudget(request.budget, "budget_ms");
    this.reserveNs = Math.min(reserve.toNanos(), (long) (MAX_RESERVE_SHARE * budgetNs));
    this.slackNs = slack.toNanos();
    this.message = RequestEncoder.encode(request);
  }

  double budgetMs() {
    return budgetNs / 1e6;
  }

  int documents() {
    return request.documents.size();
  }

  /** What is left of the budget, at least 0. */
  long leftNs() {
    return Math.max(0, budgetNs - elapsedNs());
  }

  /** The gRPC timeout from now: what is left of the budget, plus the slack. */
  long rpcTimeoutNs() {
    return Math.max(0, budgetNs + slackNs - elapsedNs());
  }

  /**
   * The request to send now, with what the sidecar may still spend, and what {@link #rpcTimeoutNs} adds to that: the
   * sidecar then knows how long the request was under way before it was read.
   */
  RerankRequest message() {
    message.getBudgetBuilder().setDeadlineSlack(duration(reserveNs + slackNs));
    return withLatency(budgetNs - elapsedNs() - reserveNs);
  }

  /** The request with its whole budget, as if it had just come in: for ExplainRoute. */
  RerankRequest messageWithoutClock() {
    return withLatency(budgetNs - reserveNs);
  }

  /** The answer where asking would be pointless: nothing to order, or no time to ask. Otherwise null. */
  @Nullable Ranking<T> answerWithoutSidecar() {
    if (request.documents.isEmpty()) {
      return unasked(List.of(), Outcome.RANKED, List.of(), false);
    }
    if (budgetNs == 0) {
      return fallBack(new Reply.Failure(Reason.BUDGET_TOO_SMALL, "the budget is 0"));
    }
    if (budgetNs - elapsedNs() <= reserveNs) {
      String detail = String.format("preparing the request took %.1f of %s ms", elapsedNs() / 1e6, budgetMs());
      return fallBack(new Reply.Failure(Reason.BUDGET_EXHAUSTED, detail));
    }
    return null;
  }

  /** What to conclude when the local timer fires first. */
  Reply.Failure timedOut() {
    return new Reply.Failure(Reason.SIDECAR_TIMEOUT, "no answer within the budget of " + budgetMs() + " ms");
  }

  /** What to conclude where the sidecar reads nothing, so that it is not even asked. */
  Reply.Failure heldBack() {
    return new Reply.Failure(
        Reason.SIDECAR_TIMEOUT, "not asked: the last " + Silence.MAX_UNANSWERED + " calls got no answer");
  }

  /**
   * The ranking that the caller gets for {@code answer}.
   *
   * @throws Answers.UnusableException where it is no ordering of the candidates
   */
  Ranking<T> read(Reply.Answer answer) throws Answers.UnusableException {
    return Answers.ranking(answer.response(), request, elapsed());
  }

  /**
   * First-stage order instead of an answer.
   *
   * @throws RerankException for a strict call
   */
  Ranking<T> fallBack(Reply.Failure failure) {
    if (request.strict) {
      throw failure.asException();
    }
    return unasked(
        Answers.firstStage(request.documents, request.topN),
        Outcome.FIRST_STAGE,
        List.of(new Degradation(failure.reason(), failure.detail())),
        true);
  }

  private Ranking<T> unasked(
      List<Ranked<T>> results, Outcome outcome, List<Degradation> degradations, boolean fallback) {
    return new Ranking<>(
        results,
        outcome,
        degradations,
        fallback,
        request.requestId,
        elapsed(),
        null,
        null,
        null,
        CacheStatus.UNSPECIFIED);
  }

  private RerankRequest withLatency(long ns) {
    message.getBudgetBuilder().setLatency(duration(Math.max(0, ns)));
    return message.build();
  }

  private static com.google.protobuf.Duration duration(long ns) {
    return com.google.protobuf.Duration.newBuilder()
        .setSeconds(ns / 1_000_000_000)
        .setNanos((int) (ns % 1_000_000_000))
        .build();
  }

  private Duration elapsed() {
    return Duration.ofNanos(elapsedNs());
  }

  private long elapsedNs() {
    return System.nanoTime() - startedNs;
  }
}
