package io.millirank.client;

/** The forced reranker is switched off, or can't score these documents (FAILED_PRECONDITION). */
public final class RerankerOffException extends RequestException {
  private static final long serialVersionUID = 1L;

  RerankerOffException(String message) {
    super(message);
  }
}
