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
  private final Silence silence;
  private @Nullable RerankResponse response;

  private Pending(ClientCall<RerankRequest, RerankResponse> rpc, StatsRecorder stats, Silence silence) {
    this.rpc = rpc;
    this.stats = stats;
    this.silence = silence;
  }

  /** Sends what {@code call} asks, with what is left of its time. */
  static Pending send(
      Channel channel, RerankCall<?> call, Metadata headers, StatsRecorder stats, Silence silence) {
    Channel withHeaders = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
    ClientCall<RerankRequest, RerankResponse> rpc =
        withHeaders.newCall(
            Methods.RERANK,
            io.grpc.CallOptions.DEFAULT.withDeadlineAfter(call.rpcTimeoutNs(), TimeUnit.NANOSECONDS));
    Pending pending = new Pending(rpc, stats, silence);
    ClientCalls.asyncUnaryCall(rpc, call.message(), pending);
    return pending;
  }

  /** The budget has ended: {@code timedOut} is the reply, unless one has come. */
  void leave(Reply timedOut) {
    if (reply.complete(timedOut)) {
      silence.left();
    }
  }

  /** The caller does not want an answer any more. */
  void cancel() {
    if (reply.completeExceptionally(new CancellationException("the rerank was cancelled by its caller"))) {
      silence.left();
    }
    rpc.cancel("the caller does not want an answer any more", null);
  }

  @Override
  public void onNext(RerankResponse value) {
    response = value;
  }

  @Override
  public void onCompleted() {
    silence.ended(Status.Code.OK);
    boolean inTime = reply.complete(new Reply.Answer(response));
    if (!inTime && !reply.isCompletedExceptionally()) {
      stats.late();
    }
  }

  @Override
  public void onError(Throwable error) {
    Status status = Status.fromThrowable(error);
    silence.ended(status.getCode());
    Metadata trailers = Status.trailersFromThrowable(error);
    reply.complete(Statuses.read(status, trailers == null ? new Metadata() : trailers));
  }
}
