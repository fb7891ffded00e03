package io.millirank.client;

import java.time.Duration;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/** No ordering as planned, where first-stage order was not wanted: a strict rerank, or an explain. */
public final class RerankException extends MillirankException {
  private static final long serialVersionUID = 1L;

  private final Reason reason;
  private final String code;
  private final @Nullable Duration retryAfter;

  RerankException(Reason reason, String detail, String code, @Nullable Duration retryAfter) {
    super(reason + ": " + detail);
    this.reason = reason;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Why. */
  public Reason reason() {
    return reason;
  }

  /** The gRPC status' name; empty where no status came. */
  public String code() {
    return code;
  }

  /** The sidecar's advice when to try again, if it gave one. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }
}
