package io.millirank.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Notices a sidecar that reads nothing any more, so that its callers' memory stays bounded.
 *
 * <p>gRPC keeps what it could not send until the connection is given up, also of calls that ended long ago. So requests
 * are held back while nobody reads them; a health check, a few bytes, finds out when to go on.
 */
final class Silence {
  /** So many calls in a row without a word from the sidecar: more are not sent until it says something. */
  static final int MAX_UNANSWERED = 64;

  private static final long PROBE_MS = 250;

  private final Channel channel;
  private final AtomicInteger unanswered = new AtomicInteger();
  private final AtomicBoolean probing = new AtomicBoolean();

  Silence(Channel channel) {
    this.channel = channel;
  }

  /** A caller went without an answer: its budget ended, or it was cancelled. */
  void left() {
    unanswered.incrementAndGet();
  }

  /**
   * An RPC ended like this. Every end but our own deadline or cancellation is a word from the sidecar, or the end of the
   * connection and of what it kept.
   */
  void ended(Status.Code code) {
    if (code != Status.Code.DEADLINE_EXCEEDED && code != Status.Code.CANCELLED) {
      unanswered.set(0);
    }
  }

  /** Whether to hold requests back; sees to it that somebody is finding out. */
  boolean lasts() {
    if (unanswered.get() < MAX_UNANSWERED) {
      return false;
    }
    if (probing.compareAndSet(false, true)) {
      probe();
    }
    return true;
  }

  private void probe() {
    ClientCall<byte[], byte[]> health =
        channel.newCall(
            Methods.HEALTH_CHECK, CallOptions.DEFAULT.withDeadlineAfter(PROBE_MS, TimeUnit.MILLISECONDS));
    health.start(
        new ClientCall.Listener<>() {
          @Override
          public void onClose(Status status, Metadata trailers) {
            ended(status.getCode());
            probing.set(false);
          }
        },
        new Metadata());
    health.sendMessage(new byte[0]);
    health.halfClose();
    health.request(1);
  }
}
