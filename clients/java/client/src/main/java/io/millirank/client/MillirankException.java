package io.millirank.client;

/** Base of what this client throws. A call on a closed client is an {@link IllegalStateException} instead. */
public abstract sealed class MillirankException extends RuntimeException permits RequestException, RerankException {
  private static final long serialVersionUID = 1L;

  MillirankException(String message) {
    super(message);
  }
}
