package io.millirank.client;

import io.millirank.v1.RerankResponse;
import java.time.Duration;
import org.jspecify.annotations.Nullable;

/** How one call to the sidecar ended. */
sealed interface Reply {

  /** It answered; whether the answer can be used is not known yet. */
  record Answer(RerankResponse response) implements Reply {}

  /** The caller's mistake, found by the sidecar. */
  record Mistake(RequestException exception) implements Reply {}

  /** No usable answer came, through no mistake of the caller. {@code code} is empty where no gRPC status came. */
  record Failure(Reason reason, String detail, String code, @Nullable Duration retryAfter) implements Reply {
    Failure(Reason reason, String detail) {
      this(reason, detail, "", null);
    }

    /** The exception for callers who do not want first-stage order instead. */
    RerankException asException() {
      return new RerankException(reason, detail, code, retryAfter);
    }
  }
}
