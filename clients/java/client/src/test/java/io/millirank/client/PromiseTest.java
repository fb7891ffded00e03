package io.millirank.client;

import static io.millirank.client.Asking.DOCUMENTS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.millirank.client.testing.Behaviour;
import io.millirank.client.testing.FakeSidecar;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** An ordering within the budget, whatever happens to the call; tests/vectors has what all clients share. */
class PromiseTest {
  private static final Duration BUDGET = Duration.ofMillis(50);
  // The promise is budget + 5 ms at p99.9 on a machine with a core to spare (see SidecarProcessTest). Here the fastest of
  // three calls has to be within this, so that a stall of a shared machine says nothing.
  private static final double TOLERANCE_MS = 30;

  private FakeSidecar sidecar;
  private Millirank client;

  @BeforeEach
  void connect() throws InterruptedException {
    sidecar = FakeSidecar.start();
    client = Millirank.builder(sidecar.target()).build();
    assertTrue(client.awaitReady(Duration.ofSeconds(10)));
  }

  @AfterEach
  void close() {
    client.close();
    sidecar.close();
  }

  private static Request<String> request(Duration budget) {
    return Request.builder("query", DOCUMENTS).budget(budget).build();
  }

  private static void assertFellBack(Ranking<String> ranking, Reason reason) {
    assertEquals(DOCUMENTS, ranking.documents());
    assertEquals(Outcome.FIRST_STAGE, ranking.outcome());
    assertTrue(ranking.fallback());
    assertEquals(List.of(reason), ranking.reasons());
  }

  /** Nobody's dependents can delay the timer: they do not run on its thread. */
  @Test
  void aBlockingCallbackDelaysNobodyElse() throws Exception {
    sidecar.behave(Behaviour.hanging());
    CountDownLatch release = new CountDownLatch(1);
    AtomicReference<String> thread = new AtomicReference<>();
    CompletableFuture<Void> blocking =
        client
            .rerankAsync(request(Duration.ofMillis(20)))
            .thenAccept(
                ranking -> {
                  thread.set(Thread.currentThread().getName());
                  await(release);
                });
    double fastest = Double.MAX_VALUE;
    for (int i = 0; i < 3; i++) {
      long started = System.nanoTime();
      assertFellBack(Asking.join(client.rerankAsync(request(BUDGET))), Reason.SIDECAR_TIMEOUT);
      fastest = Math.min(fastest, (System.nanoTime() - started) / 1e6);
    }
    assertFalse(blocking.isDone());
    assertNotEquals("millirank-timer", thread.get());
    assertTrue(fastest <= BUDGET.toMillis() + TOLERANCE_MS, fastest + " ms");
    release.countDown();
    blocking.get(10, TimeUnit.SECONDS);
  }

  /** An executor of the caller's that runs nothing: futures wait for it, but neither build() nor rerank() does. */
  @Test
  void aBusyExecutorHoldsUpNobodyWhoDoesNotNeedIt() {
    long started = System.nanoTime();
    try (Millirank starved = Millirank.builder(sidecar.target()).executor(task -> {}).build()) {
      assertFellBack(starved.rerank(request(BUDGET)), Reason.SIDECAR_TIMEOUT);
    }
    assertTrue(System.nanoTime() - started < Duration.ofSeconds(10).toNanos());
  }

  /** Sixteen callers at once over one connection to a sidecar that hangs: each is answered at its own budget. */
  @Test
  void manyCallersAreAllAnsweredInTime() {
    sidecar.behave(Behaviour.hanging());
    List<CompletableFuture<Ranking<String>>> calls =
        IntStream.range(0, 16).mapToObj(i -> client.rerankAsync(request(BUDGET))).toList();
    List<Ranking<String>> rankings = calls.stream().map(Asking::join).toList();
    rankings.forEach(ranking -> assertFellBack(ranking, Reason.SIDECAR_TIMEOUT));
    List<Duration> waits = rankings.stream().map(Ranking::elapsed).sorted().toList();
    assertTrue(waits.get(8).toNanos() / 1e6 <= BUDGET.toMillis() + TOLERANCE_MS, waits::toString);
    assertEquals(16, client.stats().firstStage());
  }

  /** The caller's own extractors count; when they took all of the budget nothing is sent any more. */
  @Test
  void aCallerWhoUsedUpTheBudgetIsAnsweredAtOnce() {
    Request<String> slow =
        Request.builder(
                "query",
                DOCUMENTS,
                document -> {
                  sleep(20);
                  return document;
                })
            .budget(BUDGET)
            .build();
    assertFellBack(client.rerank(slow), Reason.BUDGET_EXHAUSTED);
    assertEquals(List.of(), sidecar.received());
  }

  /** close() while others wait: they get first-stage order at once, not an exception. */
  @Test
  void closingAnswersTheCallsInFlight() throws Exception {
    sidecar.behave(Behaviour.hanging());
    CompletableFuture<Ranking<String>> async = client.rerankAsync(request(Duration.ofSeconds(30)));
    CompletableFuture<Ranking<String>> sync =
        CompletableFuture.supplyAsync(() -> client.rerank(request(Duration.ofSeconds(30))));
    while (sidecar.received().size() < 2) {
      sleep(5);
    }
    client.close();
    assertFellBack(async.get(5, TimeUnit.SECONDS), Reason.SIDECAR_UNAVAILABLE);
    assertFellBack(sync.get(5, TimeUnit.SECONDS), Reason.SIDECAR_UNAVAILABLE);
  }

  /** Use after close() is a mistake of the program, named as such; closing twice is not. */
  @Test
  void aClosedClientSaysSo() {
    client.close();
    client.close();
    assertThrows(IllegalStateException.class, () -> client.rerank(request(BUDGET)));
    assertThrows(IllegalStateException.class, () -> Asking.join(client.rerankAsync(request(BUDGET))));
    assertThrows(IllegalStateException.class, () -> client.explain(request(BUDGET)));
    assertThrows(IllegalStateException.class, () -> client.awaitReady(BUDGET));
  }

  /** Interrupting a waiting caller ends its wait and its call, and the interrupt is not swallowed. */
  @Test
  void anInterruptEndsTheWait() throws Exception {
    sidecar.behave(Behaviour.hanging());
    AtomicReference<Throwable> thrown = new AtomicReference<>();
    AtomicReference<Boolean> interrupted = new AtomicReference<>();
    Thread caller =
        new Thread(
            () -> {
              try {
                client.rerank(request(Duration.ofSeconds(30)));
              } catch (CancellationException error) {
                thrown.set(error);
                interrupted.set(Thread.currentThread().isInterrupted());
              }
            });
    caller.start();
    while (sidecar.received().isEmpty()) {
      sleep(5);
    }
    caller.interrupt();
    caller.join(5_000);
    assertFalse(caller.isAlive());
    assertEquals(CancellationException.class, thrown.get().getClass());
    assertEquals(true, interrupted.get());
    assertEquals(1, client.stats().raised());
  }

  /** Cancelling the future cancels the call, which then counts as raised and never as late. */
  @Test
  void cancellingTheFutureCancelsTheCall() {
    sidecar.behave(Behaviour.ranked().after(Duration.ofMillis(100)));
    CompletableFuture<Ranking<String>> call = client.rerankAsync(request(Duration.ofSeconds(30)));
    call.cancel(false);
    assertThrows(CancellationException.class, call::join);
    sleep(300);
    assertEquals(new Stats(1, 0, 0, 0, 1, Map.of(), 0), client.stats());
  }

  /** An exception of the caller's own extractor is the caller's: it comes out as it is, and nothing is counted. */
  @Test
  void anExtractorsExceptionIsNotHidden() {
    Request<String> broken =
        Request.<String>builder(
                "query",
                DOCUMENTS,
                document -> {
                  throw new UnsupportedOperationException("mine");
                })
            .build();
    assertThrows(UnsupportedOperationException.class, () -> client.rerank(broken));
    assertThrows(UnsupportedOperationException.class, () -> Asking.join(client.rerankAsync(broken)));
    assertEquals(0, client.stats().calls());
  }

  /** Down for a second: fallbacks at once; used again within 500 ms of its return (gRPC alone would take seconds). */
  @Test
  void aRestartedSidecarIsUsedAgain() {
    sidecar.stop();
    long down = System.nanoTime() + Duration.ofSeconds(1).toNanos();
    while (System.nanoTime() < down) {
      assertFellBack(client.rerank(request(Duration.ofSeconds(2))), Reason.SIDECAR_UNAVAILABLE);
      sleep(20);
    }
    sidecar.restart();
    long back = System.nanoTime();
    while (client.rerank(request(Duration.ofSeconds(2))).fallback()) {
      assertTrue(System.nanoTime() - back < Duration.ofMillis(500).toNanos(), "not used again within 500 ms");
      sleep(10);
    }
  }

  private static void await(CountDownLatch latch) {
    try {
      latch.await();
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  private static void sleep(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }
}
