package io.millirank.client.testing;

import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.millirank.client.Reason;
import io.millirank.v1.CacheStatus;
import io.millirank.v1.Completeness;
import io.millirank.v1.Decision;
import io.millirank.v1.DecisionReason;
import io.millirank.v1.Degradation;
import io.millirank.v1.DegradationReason;
import io.millirank.v1.Mode;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.RerankResponse;
import io.millirank.v1.Result;
import io.millirank.v1.ScoreSource;
import io.millirank.v1.Strategy;
import java.time.Duration;
import java.util.function.Function;
import java.util.stream.IntStream;

/** What a {@link FakeSidecar} does with a request. */
@FunctionalInterface
public interface Behaviour {

  /** What it answers. Called once for every request that reaches it, on a thread of the server. */
  Answer answer(RerankRequest request);

  /** The same after {@code delay}: a slow sidecar. */
  default Behaviour after(Duration delay) {
    return request -> answer(request).after(delay);
  }

  /** Answers every request with what {@code response} makes of it. */
  static Behaviour answering(Function<RerankRequest, RerankResponse> response) {
    return request -> Answer.of(response.apply(request));
  }

  /** Answers FULL with the candidates reversed, all scored. */
  static Behaviour ranked() {
    return answering(
        request -> {
          int count = request.getDocumentsCount();
          int[] reversed = IntStream.range(0, count).map(rank -> count - 1 - rank).toArray();
          return response(request, reversed, count, Completeness.COMPLETENESS_FULL).build();
        });
  }

  /**
   * Answers FULL with the candidates in this order of their positions, all scored. Nothing checks the order: a wrong one
   * is how to see what becomes of it.
   */
  static Behaviour ranked(int... order) {
    return answering(
        request -> response(request, order, order.length, Completeness.COMPLETENESS_FULL).build());
  }

  /** Answers PARTIAL for BUDGET_EXHAUSTED: the first {@code scored} candidates reversed, the others as they came. */
  static Behaviour partial(int scored) {
    return partial(scored, Reason.BUDGET_EXHAUSTED);
  }

  /** The same for another reason that a sidecar can have. */
  static Behaviour partial(int scored, Reason reason) {
    return answering(
        request -> {
          int count = request.getDocumentsCount();
          int reversed = Math.min(scored, count);
          int[] order =
              IntStream.range(0, count).map(rank -> rank < reversed ? reversed - 1 - rank : rank).toArray();
          return response(request, order, reversed, Completeness.COMPLETENESS_PARTIAL)
              .addDegradations(degradation(reason))
              .build();
        });
  }

  /** Answers FIRST_STAGE_ONLY for a reason that a sidecar can have. */
  static Behaviour firstStage(Reason reason) {
    return answering(
        request -> {
          int[] order = IntStream.range(0, request.getDocumentsCount()).toArray();
          return response(request, order, 0, Completeness.COMPLETENESS_FIRST_STAGE_ONLY)
              .addDegradations(degradation(reason))
              .build();
        });
  }

  /** Fails with a gRPC status. */
  static Behaviour failing(Status.Code code, String message) {
    com.google.rpc.Status status =
        com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage(message).build();
    return request -> Answer.of(status);
  }

  /** Fails as a sidecar does for a wrong field: INVALID_ARGUMENT that names it. */
  static Behaviour rejecting(String field, String message) {
    BadRequest.FieldViolation violation =
        BadRequest.FieldViolation.newBuilder().setField(field).setDescription(message).build();
    com.google.rpc.Status status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.INVALID_ARGUMENT.value())
            .setMessage(message)
            .addDetails(Any.pack(BadRequest.newBuilder().addFieldViolations(violation).build()))
            .build();
    return request -> Answer.of(status);
  }

  /** Fails as a sidecar does that is not ready for a strict call: UNAVAILABLE, with when to come back. */
  static Behaviour unavailable(Reason reason, Duration retryAfter) {
    com.google.protobuf.Duration delay =
        com.google.protobuf.Duration.newBuilder()
            .setSeconds(retryAfter.getSeconds())
            .setNanos(retryAfter.getNano())
            .build();
    com.google.rpc.Status status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.UNAVAILABLE.value())
            .setMessage("as told")
            .addDetails(
                Any.pack(ErrorInfo.newBuilder().setReason(reason.name()).setDomain("millirank.io").build()))
            .addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(delay).build()))
            .build();
    return request -> Answer.of(status);
  }

  /** Never answers. */
  static Behaviour hanging() {
    return request -> Answer.never();
  }

  private static Degradation degradation(Reason reason) {
    return Degradation.newBuilder()
        .setReason(DegradationReason.valueOf("DEGRADATION_REASON_" + reason.name()))
        .setDetail("as told")
        .build();
  }

  private static RerankResponse.Builder response(
      RerankRequest request, int[] order, int scored, Completeness completeness) {
    int count = request.getDocumentsCount();
    RerankResponse.Builder response =
        RerankResponse.newBuilder()
            .setRequestId(request.getRequestId().isEmpty() ? "fake" : request.getRequestId())
            .setCompleteness(completeness)
            .setCacheStatus(CacheStatus.CACHE_STATUS_MISS);
    int kept = request.getTopN() == 0 ? order.length : Math.min(request.getTopN(), order.length);
    for (int rank = 0; rank < kept; rank++) {
      int position = order[rank];
      Result.Builder result =
          response
              .addResultsBuilder()
              .setIndex(position)
              .setId(position < count ? request.getDocuments(position).getId() : "")
              .setScoreSource(ScoreSource.SCORE_SOURCE_FIRST_STAGE);
      if (rank < scored) {
        result
            .setScore(count - rank)
            .setRawScore(1.0 / (1 + rank))
            .setScoreSource(ScoreSource.SCORE_SOURCE_RERANKER);
      }
    }
    response
        .setDecision(
            Decision.newBuilder()
                .setId("fake")
                .setStrategy(Strategy.STRATEGY_CROSS_ENCODER)
                .setReranker("fake")
                .setPlannedK(count)
                .setScoredK(scored)
                .setReason(DecisionReason.DECISION_REASON_BEST_EXPECTED_GAIN)
                .setMode(Mode.MODE_ON))
        .getUsageBuilder()
        .setPairs(scored);
    return response;
  }
}
