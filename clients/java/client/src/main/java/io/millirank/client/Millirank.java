package io.millirank.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.millirank.v1.ExplainRouteRequest;
import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.context.Scope;
import java.time.Duration;
import java.util.Arrays;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * Reranks within a budget, or answers in first-stage order when the budget ends. Safe to share between threads; one per
 * application is enough.
 *
 * <pre>{@code
 * Millirank millirank = Millirank.builder("127.0.0.1:50051").build(); // or "unix:/run/millirank/millirank.sock"
 * Ranking<Hit> ranking = millirank.rerank(
 *     Request.builder(query, hits, Hit::body).budget(Duration.ofMillis(80)).topN(10).build());
 * List<Hit> page = ranking.documents();
 * }</pre>
 */
public final class Millirank implements AutoCloseable {
  private static final Duration EXPLAIN_TIMEOUT = Duration.ofSeconds(1);
  private static final long WARM_UP_NS = TimeUnit.SECONDS.toNanos(1);
  private static final long HEALTH_POLL_NS = TimeUnit.MILLISECONDS.toNanos(50);

  private final ScheduledExecutorService timer = Threads.timer();
  private final ManagedChannel channel;
  private final Tracing tracing;
  private final Caller caller;
  private volatile boolean closed;

  private Millirank(Builder builder) {
    Executor executor = builder.executor == null ? Threads.callbacks() : builder.executor;
    this.tracing = new Tracing(builder.target, builder.telemetry);
    this.channel = Channels.open(builder.target, builder.credentials, executor, builder.customiser());
    this.caller =
        new Caller(
            channel,
            builder.reserve,
            builder.slack,
            tracing,
            new StatsRecorder(),
            new Silence(channel),
            timer,
            executor);
    new Reconnector(channel, timer).watch();
    // The first answer that comes over a connection loads classes as well; nobody waits for this one.
    ClientCalls.futureUnaryCall(channel.newCall(Methods.HEALTH_CHECK, patient(WARM_UP_NS)), new byte[0]);
    Rehearsal.run(builder.target, builder.credentials, timer);
  }

  /**
   * A client of the sidecar at {@code target}: {@code host:port}, {@code unix:/path}, or a URI that gRPC resolves, such
   * as {@code dns:///host:port}.
   */
  public static Builder builder(String target) {
    return new Builder(target);
  }

  /**
   * Orders the documents within the budget, which counts from here. The answer holds the caller's own objects; when no
   * usable answer comes in time it is their first-stage order, with the reason.
   *
   * @throws RequestException the request is wrong
   * @throws RerankException the request is strict, and the answer would be less than planned
   * @throws IllegalStateException this client is closed
   * @throws CancellationException the thread was interrupted; its interrupt status stays set
   */
  public <T> Ranking<T> rerank(Request<T> request) {
    checkOpen();
    return caller.rerank(request);
  }

  /**
   * {@link #rerank} without waiting. The future always completes within the budget, exceptionally with what {@link
   * #rerank} throws. Its dependents run on the builder's executor. Cancelling it cancels the call.
   */
  public <T> CompletableFuture<Ranking<T>> rerankAsync(Request<T> request) {
    if (closed) {
      return CompletableFuture.failedFuture(closedException());
    }
    return caller.rerankAsync(request);
  }

  /** {@link #explain(Request, Duration)}, waiting up to a second. */
  public Decision explain(Request<?> request) {
    return explain(request, EXPLAIN_TIMEOUT);
  }

  /**
   * What the sidecar would decide for the same rerank now, without doing the work. There is nothing to fall back to.
   *
   * @param timeout how long to wait; the request's budget is only what the decision is about
   * @throws RequestException the request is wrong
   * @throws RerankException no answer came
   * @throws IllegalStateException this client is closed
   */
  public Decision explain(Request<?> request, Duration timeout) {
    long timeoutNs = RequestEncoder.checkBudget(timeout, "timeout_ms");
    RerankCall<?> call = new RerankCall<>(request, caller.reserve(), caller.slack());
    checkOpen();
    ExplainRouteRequest message =
        ExplainRouteRequest.newBuilder().setRequest(call.messageWithoutClock()).build();
    Span span = tracing.start("ExplainRoute", call);
    try (Scope scope = span.makeCurrent()) {
      Channel withHeaders =
          ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(tracing.headers(span)));
      CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(timeoutNs, TimeUnit.NANOSECONDS);
      return Answers.decision(
          ClientCalls.blockingUnaryCall(withHeaders, Methods.EXPLAIN_ROUTE, options, message).getDecision());
    } catch (StatusRuntimeException error) {
      RuntimeException translated = translated(error, span);
      Tracing.describe(span, translated);
      throw translated;
    } finally {
      span.end();
    }
  }

  /**
   * Waits until the sidecar is reachable and does not call itself NOT_SERVING; false after {@code timeout}. For start-up
   * and tests: reranking needs no waiting, it falls back by itself.
   *
   * @throws InterruptedException the thread was interrupted
   */
  public boolean awaitReady(Duration timeout) throws InterruptedException {
    checkOpen();
    long deadline = System.nanoTime() + timeout.toNanos();
    while (true) {
      long left = deadline - System.nanoTime();
      if (isServing(Math.max(0, left))) {
        return true;
      }
      if (left <= HEALTH_POLL_NS) {
        return false;
      }
      TimeUnit.NANOSECONDS.sleep(HEALTH_POLL_NS);
    }
  }

  /** What this client has answered so far. */
  public Stats stats() {
    return caller.stats().snapshot();
  }

  /** Closes the connection. Calls in flight are answered in first-stage order. */
  @Override
  public void close() {
    closed = true;
    channel.shutdownNow();
    timer.shutdown(); // timers that run already still fire
  }

  private static RuntimeException translated(StatusRuntimeException error, Span span) {
    Metadata trailers = error.getTrailers();
    Reply reply = Statuses.read(error.getStatus(), trailers == null ? new Metadata() : trailers);
    if (reply instanceof Reply.Failure failure) {
      Tracing.describe(span, failure);
      return failure.asException();
    }
    return ((Reply.Mistake) reply).exception();
  }

  private boolean isServing(long timeoutNs) {
    try {
      byte[] status =
          ClientCalls.blockingUnaryCall(channel, Methods.HEALTH_CHECK, patient(timeoutNs), new byte[0]);
      return Arrays.equals(status, Methods.HEALTH_SERVING);
    } catch (StatusRuntimeException error) {
      // A sidecar without health service is reachable, and there is nothing more to be known.
      return error.getStatus().getCode() == Status.Code.UNIMPLEMENTED;
    }
  }

  /** Waits for a connection, up to that long. */
  private static CallOptions patient(long timeoutNs) {
    return CallOptions.DEFAULT.withDeadlineAfter(timeoutNs, TimeUnit.NANOSECONDS).withWaitForReady();
  }

  private void checkOpen() {
    if (closed) {
      throw closedException();
    }
  }

  private static IllegalStateException closedException() {
    return new IllegalStateException("the client is closed; make a new one");
  }

  /** Settings of a client; every one has a default. */
  public static final class Builder {
    private final String target;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private @Nullable String token;
    private Consumer<ManagedChannelBuilder<?>> customise = builder -> {};
    private Duration reserve = Duration.ofMillis(1);
    private Duration slack = Duration.ofMillis(50);
    private Supplier<OpenTelemetry> telemetry = GlobalOpenTelemetry::getOrNoop;
    private @Nullable Executor executor;

    private Builder(String target) {
      this.target = target;
    }

    /** TLS: what {@code TlsChannelCredentials} makes. Without it the connection is plain text. */
    public Builder credentials(ChannelCredentials channelCredentials) {
      this.credentials = channelCredentials;
      return this;
    }

    /**
     * A bearer token that goes with every call, for a sidecar that asks for one (its {@code listen.token_file}). It
     * needs {@link #credentials} unless the target is on this machine (a Unix socket, loopback).
     */
    public Builder token(String bearer) {
      this.token = bearer;
      return this;
    }

    /** Further gRPC settings, interceptors among them; they replace this client's own. */
    public Builder configureChannel(Consumer<ManagedChannelBuilder<?>> customiser) {
      this.customise = customiser;
      return this;
    }

    /** Kept back from what the sidecar may spend, for the transport: 1 ms; at most 10 % of a budget is taken. */
    public Builder reserve(Duration duration) {
      RequestEncoder.checkBudget(duration, "reserve_ms");
      this.reserve = duration;
      return this;
    }

    /** What the gRPC deadline adds to the budget, so that late answers can be counted: 50 ms. */
    public Builder slack(Duration duration) {
      RequestEncoder.checkBudget(duration, "slack_ms");
      this.slack = duration;
      return this;
    }

    /** Makes spans and carries context; by default the global one, whenever that is set. */
    public Builder openTelemetry(OpenTelemetry openTelemetry) {
      this.telemetry = () -> openTelemetry;
      return this;
    }

    /**
     * Where answers are read and the futures' dependents run; by default daemon threads of this client, as many as are
     * needed. An executor whose threads are all busy makes futures late.
     */
    public Builder executor(Executor callbacks) {
      this.executor = callbacks;
      return this;
    }

    /**
     * The client. Connecting starts at once and happens in the background.
     *
     * @throws IllegalArgumentException the target is none; the token can't be sent, or would be in plain text
     * @throws UnsupportedOperationException a Unix socket on a platform without epoll
     */
    public Millirank build() {
      return new Millirank(this);
    }

    /** The token before the caller's own settings, which win. */
    private Consumer<ManagedChannelBuilder<?>> customiser() {
      if (token == null) {
        return customise;
      }
      ClientInterceptor bearer = Channels.bearer(token, target, credentials);
      return channel -> customise.accept(channel.intercept(bearer));
    }
  }
}
