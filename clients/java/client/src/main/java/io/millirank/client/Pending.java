package io.millirank.client;

import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.RerankResponse;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/**
 * A Rerank on the wire that its caller can leave: whoever completes {@link #reply} first, the sidecar or the timer, has
 * decided.
 *
 * <p>A call that was left is not cancelled: its gRPC deadline ends it within the slack, and until then a late answer is
 * counted.
 */
final class Pending implements StreamObserver<RerankResponse> {
  final CompletableFuture<Reply> reply = new CompletableFuture<>();

  private final ClientCall<RerankRequest, RerankResponse> rpc;
  private final StatsRecorder stats;
  private @Nullable RerankResponse response;

  private Pending(ClientCall<RerankRequest, RerankResponse> rpc, StatsRecorder stats) {
    this.rpc = rpc;
    this.stats = stats;
  }

  /** Sends what {@code call} asks, with what is left of its time. */
  static Pending send(Channel channel, RerankCall<?> call, Metadata headers, StatsRecorder stats) {
    Channel withHeaders = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
    ClientCall<RerankRequest, RerankResponse> rpc =
        withHeaders.newCall(
            Methods.RERANK,
            io.grpc.CallOptions.DEFAULT.withDeadlineAfter(call.rpcTimeoutNs(), TimeUnit.NANOSECONDS));
    Pending pending = new Pending(rpc, stats);
    ClientCalls.asyncUnaryCall(rpc, call.message(), pending);
    return pending;
  }

  /** The caller does not want an answer any more. */
  void cancel() {
    reply.completeExceptionally(new CancellationException("the rerank was cancelled by its caller"));
    rpc.cancel("the caller does not want an answer any more", null);
  }

  @Override
  public void onNext(RerankResponse value) {
    response = value;
  }

  @Override
  public void onCompleted() {
    boolean inTime = reply.complete(new Reply.Answer(response));
    if (!inTime && !reply.isCompletedExceptionally()) {
      stats.late();
    }
  }

  @Override
  public void onError(Throwable error) {
    Metadata trailers = Status.trailersFromThrowable(error);
    reply.complete(Statuses.read(Status.fromThrowable(error), trailers == null ? new Metadata() : trailers));
  }
}
