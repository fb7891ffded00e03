package io.millirank.client;

/** The forced strategy or reranker does not exist in this sidecar (NOT_FOUND). */
public final class RerankerNotFoundException extends RequestException {
  private static final long serialVersionUID = 1L;

  RerankerNotFoundException(String message) {
    super(message);
  }
}
