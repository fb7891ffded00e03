package io.millirank.client;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * Keeps a channel connected: at once when it is made or idle, and 50 to 100 ms after each failed attempt.
 *
 * <p>A sidecar that restarts is a matter of 100 ms. gRPC for Java waits 1 s growing to 2 min between attempts and has
 * no setting for that, but {@link ManagedChannel#resetConnectBackoff} cuts the wait short.
 */
final class Reconnector {
  private static final long FIRST_DELAY_MS = 50;
  private static final long NEXT_DELAY_MS = 100;

  private final ManagedChannel channel;
  private final ScheduledExecutorService timer;

  Reconnector(ManagedChannel channel, ScheduledExecutorService timer) {
    this.channel = channel;
    this.timer = timer;
  }

  /** Starts; ends when the channel is shut down. */
  void watch() {
    ConnectivityState state = channel.getState(true);
    if (state == ConnectivityState.SHUTDOWN) {
      return;
    }
    if (state == ConnectivityState.TRANSIENT_FAILURE) {
      tryAgainIn(FIRST_DELAY_MS);
    }
    channel.notifyWhenStateChanged(state, this::watch);
  }

  private void tryAgainIn(long delayMs) {
    try {
      timer.schedule(this::tryAgain, delayMs, TimeUnit.MILLISECONDS);
    } catch (RejectedExecutionException closed) {
      // The client was closed meanwhile.
    }
  }

  private void tryAgain() {
    // The state stays TRANSIENT_FAILURE during further attempts, and nobody is notified of those.
    if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
      channel.resetConnectBackoff();
      tryAgainIn(NEXT_DELAY_MS);
    }
  }
}
