package io.millirank.client.testing;

import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerInterceptors;
import io.grpc.ServerServiceDefinition;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import io.millirank.client.Methods;
import io.millirank.v1.Decision;
import io.millirank.v1.DecisionReason;
import io.millirank.v1.ExplainRouteResponse;
import io.millirank.v1.Mode;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.Strategy;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * A sidecar for tests: a real gRPC server on loopback that answers as told.
 *
 * <pre>{@code
 * try (FakeSidecar sidecar = FakeSidecar.start(Behaviour.ranked(2, 0, 1));
 *     Millirank millirank = Millirank.builder(sidecar.target()).build()) {
 *   assertEquals(List.of("c", "a", "b"), search(millirank, List.of("a", "b", "c")));
 *   sidecar.behave(Behaviour.hanging());
 *   assertEquals(List.of("a", "b", "c"), search(millirank, List.of("a", "b", "c")));
 * }
 * }</pre>
 *
 * {@link #stop} and {@link #restart} keep the port, so that a restart can be played through.
 */
public final class FakeSidecar implements AutoCloseable {
  private static final Context.Key<Received> ARRIVAL = Context.key("millirank-arrival");
  private static final Decision DECISION =
      Decision.newBuilder()
          .setId("fake")
          .setStrategy(Strategy.STRATEGY_CROSS_ENCODER)
          .setReranker("fake")
          .setReason(DecisionReason.DECISION_REASON_BEST_EXPECTED_GAIN)
          .setMode(Mode.MODE_ON)
          .build();

  private final List<Received> received = new CopyOnWriteArrayList<>();
  private final ScheduledExecutorService delays =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            Thread thread = new Thread(task, "fake-sidecar");
            thread.setDaemon(true);
            return thread;
          });
  private volatile Behaviour behaviour;
  private volatile Decision decision = DECISION;
  private int port;
  private @Nullable Server server;

  private FakeSidecar(Behaviour behaviour) {
    this.behaviour = behaviour;
  }

  /** A running sidecar that reverses its candidates until told otherwise. */
  public static FakeSidecar start() {
    return start(Behaviour.ranked());
  }

  /** A running sidecar. */
  public static FakeSidecar start(Behaviour behaviour) {
    FakeSidecar sidecar = new FakeSidecar(behaviour);
    sidecar.restart();
    return sidecar;
  }

  /** What to do with requests from now on. */
  public void behave(Behaviour next) {
    this.behaviour = next;
  }

  /** What ExplainRoute answers, where the behaviour is not to fail. */
  public void decide(Decision next) {
    this.decision = next;
  }

  /** Where it listens: {@code 127.0.0.1:port}. */
  public String target() {
    return "127.0.0.1:" + port;
  }

  /** What came in, oldest first. */
  public List<Received> received() {
    return List.copyOf(received);
  }

  /** Listens again, on the same port. Does nothing while it is running. */
  public synchronized void restart() {
    if (server != null) {
      return;
    }
    try {
      server =
          NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), port))
              .addService(ServerInterceptors.intercept(service(), new Arrivals()))
              .build()
              .start();
    } catch (IOException error) {
      throw new UncheckedIOException("port " + port + " can't be listened on", error);
    }
    port = server.getPort();
  }

  /** Closes the port and every connection, without waiting for delayed answers: a sidecar that died. */
  public synchronized void stop() {
    if (server == null) {
      return;
    }
    server.shutdownNow();
    try {
      server.awaitTermination(10, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
    server = null;
  }

  @Override
  public void close() {
    stop();
    delays.shutdownNow();
  }

  private ServerServiceDefinition service() {
    return ServerServiceDefinition.builder(Methods.SERVICE)
        .addMethod(
            Methods.RERANK,
            ServerCalls.asyncUnaryCall(
                (request, caller) -> answer(request, caller, answer -> caller.onNext(answer.response()))))
        .addMethod(
            Methods.EXPLAIN_ROUTE,
            ServerCalls.asyncUnaryCall(
                (explain, caller) ->
                    answer(
                        explain.getRequest(),
                        caller,
                        answer ->
                            caller.onNext(ExplainRouteResponse.newBuilder().setDecision(decision).build()))))
        .build();
  }

  /** Does with {@code request} what the behaviour says; {@code reply} sends an answer that is OK. */
  private void answer(RerankRequest request, StreamObserver<?> caller, Consumer<Answer> reply) {
    Received arrival = ARRIVAL.get();
    received.add(new Received(request, arrival.headers(), arrival.deadlineLeft()));
    Answer answer = behaviour.answer(request);
    if (answer.response() == null && answer.status() == null) {
      return;
    }
    ServerCallStreamObserver<?> call = (ServerCallStreamObserver<?>) caller;
    // With a handler set, an answer to a caller who has left is dropped instead of being an exception.
    call.setOnCancelHandler(() -> {});
    Runnable send =
        () -> {
          if (answer.status() != null) {
            caller.onError(StatusProto.toStatusRuntimeException(answer.status()));
          } else {
            reply.accept(answer);
            caller.onCompleted();
          }
        };
    try {
      delays.schedule(send, answer.delay().toNanos(), TimeUnit.NANOSECONDS);
    } catch (RejectedExecutionException closed) {
      // Closed meanwhile; nobody is there to be answered.
    }
  }

  /** Keeps what only the transport knows about a request. */
  private static final class Arrivals implements ServerInterceptor {
    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
      Deadline deadline = Context.current().getDeadline();
      Duration left = deadline == null ? null : Duration.ofNanos(deadline.timeRemaining(TimeUnit.NANOSECONDS));
      Received arrival = new Received(RerankRequest.getDefaultInstance(), headers, left);
      return Contexts.interceptCall(Context.current().withValue(ARRIVAL, arrival), call, headers, next);
    }
  }
}
