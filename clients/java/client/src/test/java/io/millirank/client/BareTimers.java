package io.millirank.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.locks.LockSupport;

/** The yardstick: threads that do nothing but wait, next to those that are measured. How late are they woken? */
final class BareTimers {
  private final List<Thread> threads = new ArrayList<>();
  private final List<Double> took = new ArrayList<>();
  private volatile boolean stopped;

  private BareTimers() {}

  static BareTimers start(int count, Duration wait) {
    BareTimers timers = new BareTimers();
    for (int i = 0; i < count; i++) {
      Thread thread = new Thread(() -> timers.run(wait.toNanos()), "bare-timer");
      thread.setDaemon(true);
      timers.threads.add(thread);
      thread.start();
    }
    return timers;
  }

  /** Ends them; the quantile of how long they waited, in ms. */
  double stop(double quantile) throws InterruptedException {
    stopped = true;
    for (Thread thread : threads) {
      thread.join();
    }
    double[] sorted = took.stream().mapToDouble(Double::doubleValue).toArray();
    Arrays.sort(sorted);
    return sorted[(int) (sorted.length * quantile)];
  }

  private void run(long waitNs) {
    List<Double> mine = new ArrayList<>();
    while (!stopped) {
      long started = System.nanoTime();
      long left = waitNs;
      while (left > 0) { // parkNanos may return early
        LockSupport.parkNanos(left);
        left = started + waitNs - System.nanoTime();
      }
      mine.add((System.nanoTime() - started) / 1e6);
    }
    synchronized (took) {
      took.addAll(mine);
    }
  }
}
