package io.millirank.client;

import java.util.concurrent.Executor;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** The threads of one client: daemons, so that a client that nobody closed never keeps a JVM alive. */
final class Threads {
  private static final long IDLE_SECONDS = 10;

  private Threads() {}

  /** One thread that only ever hands work on. */
  static ScheduledExecutorService timer() {
    ScheduledThreadPoolExecutor timer = new ScheduledThreadPoolExecutor(1, daemons("millirank-timer"));
    timer.setRemoveOnCancelPolicy(true);
    return timer;
  }

  /** As many threads as callbacks run at once, so that a blocking one delays nobody; they end when idle. */
  static Executor callbacks() {
    return new ThreadPoolExecutor(
        0,
        Integer.MAX_VALUE,
        IDLE_SECONDS,
        TimeUnit.SECONDS,
        new SynchronousQueue<>(),
        daemons("millirank-callback"));
  }

  private static ThreadFactory daemons(String name) {
    return task -> {
      Thread thread = new Thread(task, name);
      thread.setDaemon(true);
      return thread;
    };
  }
}
