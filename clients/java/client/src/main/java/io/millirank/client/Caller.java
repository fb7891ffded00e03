package io.millirank.client;

import io.grpc.Channel;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.context.Scope;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;

/**
 * Makes reranks over a channel, waits no longer than their budgets, and keeps the books.
 *
 * @param reserve kept back from what the sidecar may spend
 * @param slack what the gRPC deadline adds to the budget
 * @param silence says when not even to ask
 * @param timer ends the futures' waits; its thread only hands on to {@code executor}
 * @param executor where futures complete
 */
record Caller(
    Channel channel,
    Duration reserve,
    Duration slack,
    Tracing tracing,
    StatsRecorder stats,
    Silence silence,
    ScheduledExecutorService timer,
    Executor executor) {

  /** {@link Millirank#rerank}. */
  <T> Ranking<T> rerank(Request<T> request) {
    RerankCall<T> call = prepare(request);
    Span span = tracing.start("Rerank", call);
    try (Scope scope = span.makeCurrent()) {
      Ranking<T> unasked = call.answerWithoutSidecar();
      if (unasked != null) {
        return answered(unasked, span);
      }
      Reply reply = silence.lasts() ? call.heldBack() : await(call, send(call, span));
      return conclude(call, reply, span);
    } catch (RuntimeException error) {
      raised(error, span);
      throw error;
    } finally {
      span.end();
    }
  }

  /** {@link Millirank#rerankAsync}. */
  <T> CompletableFuture<Ranking<T>> rerankAsync(Request<T> request) {
    CompletableFuture<Ranking<T>> result = new CompletableFuture<>();
    RerankCall<T> call;
    try {
      call = prepare(request);
    } catch (RuntimeException error) {
      result.completeExceptionally(error);
      return result;
    }
    Span span = tracing.start("Rerank", call);
    try (Scope scope = span.makeCurrent()) {
      Ranking<T> unasked = call.answerWithoutSidecar();
      if (unasked != null) {
        finish(result, () -> answered(unasked, span), span);
        return result;
      }
      if (silence.lasts()) {
        finish(result, () -> conclude(call, call.heldBack(), span), span);
        return result;
      }
      Pending pending = send(call, span);
      // Not completed on the timer's thread: what depends on the result may block, and other callers wait for the timer.
      Future<?> timeout =
          timer.schedule(
              () -> executor.execute(() -> pending.leave(call.timedOut())),
              call.leftNs(),
              TimeUnit.NANOSECONDS);
      pending.reply.whenComplete(
          (reply, cancelled) -> {
            timeout.cancel(false);
            finish(result, () -> conclude(call, reply(pending.reply), span), span);
          });
      result.whenComplete(
          (ranking, error) -> {
            if (result.isCancelled()) {
              pending.cancel();
            }
          });
    } catch (RuntimeException error) {
      finish(
          result,
          () -> {
            throw error;
          },
          span);
    }
    return result;
  }

  private <T> RerankCall<T> prepare(Request<T> request) {
    RerankCall<T> call = new RerankCall<>(request, reserve, slack);
    stats.started();
    return call;
  }

  private Pending send(RerankCall<?> call, Span span) {
    return Pending.send(channel, call, tracing.headers(span), stats, silence);
  }

  private Reply await(RerankCall<?> call, Pending pending) {
    try {
      return pending.reply.get(call.leftNs(), TimeUnit.NANOSECONDS);
    } catch (TimeoutException budgetEnded) {
      pending.leave(call.timedOut());
      return reply(pending.reply); // the timer's, or an answer that came just now
    } catch (InterruptedException interrupted) {
      pending.cancel();
      Thread.currentThread().interrupt();
      throw new CancellationException("interrupted while waiting for the sidecar");
    } catch (ExecutionException impossible) {
      throw new IllegalStateException(impossible); // only cancel() completes a reply exceptionally
    }
  }

  /** A completed reply, or the CancellationException of a cancelled one. */
  private static Reply reply(CompletableFuture<Reply> completed) {
    return completed.join();
  }

  /** The ranking that the caller gets for this reply; throws the caller's mistakes, and failures if strict. */
  private <T> Ranking<T> conclude(RerankCall<T> call, Reply reply, Span span) {
    if (reply instanceof Reply.Mistake mistake) {
      throw mistake.exception();
    }
    Reply.Failure failure;
    if (reply instanceof Reply.Answer answer) {
      try {
        return answered(call.read(answer), span);
      } catch (Answers.UnusableException unusable) {
        failure = new Reply.Failure(Reason.SIDECAR_ERROR, "the answer can't be used: " + unusable.getMessage());
      }
    } else {
      failure = (Reply.Failure) reply;
    }
    Tracing.describe(span, failure);
    return answered(call.fallBack(failure), span);
  }

  private <T> Ranking<T> answered(Ranking<T> ranking, Span span) {
    stats.answered(ranking);
    Tracing.describe(span, ranking);
    return ranking;
  }

  private void raised(RuntimeException error, Span span) {
    stats.raised();
    Tracing.describe(span, error);
  }

  /** Completes {@code result} with what {@code outcome} returns or throws, after the span has ended. */
  private <T> void finish(CompletableFuture<Ranking<T>> result, Supplier<Ranking<T>> outcome, Span span) {
    Ranking<T> ranking;
    try {
      ranking = outcome.get();
    } catch (RuntimeException error) {
      raised(error, span);
      span.end();
      result.completeExceptionally(error);
      return;
    }
    span.end();
    result.complete(ranking);
  }
}
