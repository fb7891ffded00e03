package io.millirank.client;

import static io.millirank.client.Asking.DOCUMENTS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** A sidecar that reads nothing (SIGSTOP) is not sent more and more, and is asked again when it is back. */
class SilenceTest {
  private static final Duration SHORT = Duration.ofMillis(20);
  private static final Duration ROOMY = Duration.ofSeconds(20);
  private static final List<String> LONG =
      IntStream.range(0, 100).mapToObj(i -> i + " " + "x".repeat(590)).toList(); // about 60 kB a request
  private static final int CALLERS = 64;
  private static final int BOUND_MB = 128;

  private SidecarProcess sidecar;
  private Millirank client;

  @BeforeEach
  void connect() throws Exception {
    sidecar = SidecarProcess.start(SidecarProcess.NO_MODELS);
    client = Millirank.builder(sidecar.addresses().get(0)).build();
    assertTrue(client.awaitReady(ROOMY));
  }

  @AfterEach
  void close() throws Exception {
    client.close();
    sidecar.close();
  }

  private Ranking<String> ask(List<String> documents, Duration budget) {
    return client.rerank(Request.builder("query", documents).budget(budget).build());
  }

  private static boolean heldBack(Ranking<String> ranking) {
    return ranking.degradations().get(0).detail().startsWith("not asked");
  }

  /** How many calls it took; more than 64 where this process got no processor: a call that is not sent does not count. */
  private int fallSilent() {
    for (int number = 0; number < 3 * Silence.MAX_UNANSWERED; number++) {
      if (heldBack(ask(DOCUMENTS, SHORT))) {
        return number;
      }
    }
    return fail("the client keeps asking");
  }

  /** After 64 calls in a row without an answer, sync and async ones are answered at once, in first-stage order. */
  @Test
  void after64UnansweredCallsNothingIsSent() throws Exception {
    sidecar.freeze();
    assertTrue(fallSilent() >= Silence.MAX_UNANSWERED);
    Request<String> request = Request.builder("query", DOCUMENTS).budget(ROOMY).build();
    for (Ranking<String> ranking : List.of(client.rerank(request), Asking.join(client.rerankAsync(request)))) {
      assertTrue(heldBack(ranking), ranking::toString);
      assertTrue(ranking.elapsed().compareTo(ROOMY.dividedBy(10)) < 0, ranking::toString);
      assertEquals(List.of(Reason.SIDECAR_TIMEOUT), ranking.reasons());
      assertEquals(DOCUMENTS, ranking.documents());
    }
  }

  /** Callers who cancel before their budget ends fill no memory either. */
  @Test
  void cancelledCallsCountAsUnanswered() throws Exception {
    sidecar.freeze();
    for (int i = 0; i < Silence.MAX_UNANSWERED; i++) {
      CompletableFuture<Ranking<String>> future =
          client.rerankAsync(Request.builder("query", DOCUMENTS).budget(ROOMY).build());
      assertFalse(future.isDone());
      future.cancel(true);
    }
    assertTrue(heldBack(ask(DOCUMENTS, ROOMY)));
  }

  /** A health check every 250 ms finds out; it takes calls to start one. */
  @Test
  void aThawedSidecarIsAskedAgainWithinASecond() throws Exception {
    sidecar.freeze();
    fallSilent();
    Thread.sleep(200); // until no call is on its way whose answer could end the silence
    sidecar.thaw();
    long thawed = System.nanoTime();
    while (ask(DOCUMENTS, ROOMY).fallback()) {
      assertTrue(System.nanoTime() - thawed < 1e9);
      Thread.sleep(10);
    }
  }

  /** 600 MB of requests by 64 callers that nobody reads: kept are those before the silence, and no others. */
  @Test
  void memoryStaysBounded() throws Exception {
    callers(1_000, ROOMY); // the JVM takes what it needs for these calls
    long before = residentMb();
    sidecar.freeze();
    long most = callers(10_000, Duration.ofMillis(50));
    System.out.printf("frozen sidecar, 10,000 requests of 60 kB: %d MB before, at most %d MB%n", before, most);
    assertTrue(most - before < BOUND_MB, before + " MB before, at most " + most + " MB");
  }

  /** That many calls by 64 threads; the most MB that lay in memory meanwhile. */
  private long callers(int calls, Duration budget) throws Exception {
    AtomicInteger next = new AtomicInteger();
    AtomicLong most = new AtomicLong();
    List<CompletableFuture<Void>> running = new ArrayList<>();
    ExecutorService threads = Executors.newFixedThreadPool(CALLERS);
    for (int i = 0; i < CALLERS; i++) {
      running.add(
          CompletableFuture.runAsync(
              () -> {
                int number;
                while ((number = next.getAndIncrement()) < calls) {
                  ask(LONG, budget);
                  if (number % 100 == 0) {
                    most.accumulateAndGet(residentMb(), Math::max);
                  }
                }
              },
              threads));
    }
    CompletableFuture.allOf(running.toArray(CompletableFuture[]::new)).join();
    threads.shutdown();
    return most.get();
  }

  private static long residentMb() {
    try (Stream<String> status = Files.lines(Path.of("/proc/self/status"))) {
      return status
              .filter(line -> line.startsWith("VmRSS:"))
              .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")))
              .sum()
          / 1024;
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
