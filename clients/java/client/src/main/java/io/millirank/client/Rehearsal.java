package io.millirank.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.millirank.v1.Completeness;
import io.millirank.v1.RerankResponse;
import io.opentelemetry.api.OpenTelemetry;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/**
 * Goes through a rerank before the first caller does.
 *
 * <p>A JVM loads classes when they are first used, which would take the first rerank several hundred ms: more than any
 * budget, and no timer helps a thread that is loading classes. Nothing of this reaches the sidecar, a trace or a counter.
 */
final class Rehearsal {
  private static final int ROUNDS = 20; // one loads everything; the others begin to compile the loops over candidates
  private static final Duration BUDGET = Duration.ofSeconds(1);
  private static final List<String> DOCUMENTS = Collections.nCopies(50, "a document of a few words");

  private Rehearsal() {}

  /** Takes about half a second in a new JVM, some 20 ms later on. */
  static void run(String target, ChannelCredentials credentials, ScheduledExecutorService timer) {
    // Threads and a channel of its own: the caller's may be busy, and its interceptors would see calls that nobody made.
    Executor executor = Threads.callbacks();
    ManagedChannel channel = Channels.open(target, credentials, executor, builder -> {});
    Caller failing = caller(ClientInterceptors.intercept(channel, new Expired()), timer, executor);
    Caller slow = caller(new Silent(), timer, executor);
    for (int round = 0; round < ROUNDS; round++) {
      failing.rerank(request(BUDGET));
      answered();
    }
    failing.rerankAsync(request(BUDGET)).join();
    slow.rerank(request(Duration.ofMillis(2)));
    slow.rerankAsync(request(Duration.ofMillis(2))).join();
    channel.shutdownNow();
  }

  private static Caller caller(Channel channel, ScheduledExecutorService timer, Executor executor) {
    Tracing tracing = new Tracing("rehearsal:1", OpenTelemetry::noop);
    return new Caller(
        channel, Duration.ZERO, Duration.ZERO, tracing, new StatsRecorder(), new Silence(channel), timer, executor);
  }

  private static Request<String> request(Duration budget) {
    return Request.builder("rehearsal", DOCUMENTS)
        .budget(budget)
        .id(document -> "id")
        .signals(document -> Collections.singletonMap("bm25", 1.0))
        .build();
  }

  private static void answered() {
    RerankCall<String> call = new RerankCall<>(request(BUDGET), Duration.ZERO, Duration.ZERO);
    RerankResponse.Builder response =
        RerankResponse.newBuilder().setCompleteness(Completeness.COMPLETENESS_FULL);
    for (int index = DOCUMENTS.size() - 1; index >= 0; index--) {
      response.addResultsBuilder().setIndex(index).setScore(index).setRawScore(index);
    }
    response.getDecisionBuilder().addConsideredBuilder();
    try {
      RerankResponse received = Methods.RERANK.parseResponse(Methods.RERANK.streamResponse(response.build()));
      Methods.RERANK.parseRequest(Methods.RERANK.streamRequest(call.message()));
      call.read(new Reply.Answer(received));
    } catch (Answers.UnusableException impossible) {
      throw new IllegalStateException(impossible); // it is written above
    }
  }

  /** Calls end before they start, so that they take their whole way through gRPC but the network. */
  private static final class Expired implements ClientInterceptor {
    @Override
    public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
      return next.newCall(method, options.withDeadlineAfter(0, TimeUnit.NANOSECONDS));
    }
  }

  /** Calls never end. */
  private static final class Silent extends Channel {
    @Override
    public <Q, A> ClientCall<Q, A> newCall(MethodDescriptor<Q, A> method, CallOptions options) {
      return new ClientCall<>() {
        @Override
        public void start(Listener<A> listener, Metadata headers) {}

        @Override
        public void request(int messages) {}

        @Override
        public void cancel(@Nullable String message, @Nullable Throwable cause) {}

        @Override
        public void halfClose() {}

        @Override
        public void sendMessage(Q message) {}
      };
    }

    @Override
    public String authority() {
      return "silent";
    }
  }
}
