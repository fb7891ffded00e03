package io.millirank.client.testing;

import io.millirank.v1.RerankResponse;
import java.time.Duration;
import org.jspecify.annotations.Nullable;

/**
 * One answer of a {@link FakeSidecar}.
 *
 * @param response what to answer; null for a status, and for no answer at all
 * @param status what to fail with, as google.rpc.Status with its details
 * @param delay how long after the request came in
 */
public record Answer(@Nullable RerankResponse response, com.google.rpc.@Nullable Status status, Duration delay) {

  /** Answer OK. */
  public static Answer of(RerankResponse response) {
    return new Answer(response, null, Duration.ZERO);
  }

  /** Fail. */
  public static Answer of(com.google.rpc.Status status) {
    return new Answer(null, status, Duration.ZERO);
  }

  /** Say nothing, ever. */
  public static Answer never() {
    return new Answer(null, null, Duration.ZERO);
  }

  /** The same, later. */
  public Answer after(Duration later) {
    return new Answer(response, status, delay.plus(later));
  }
}
