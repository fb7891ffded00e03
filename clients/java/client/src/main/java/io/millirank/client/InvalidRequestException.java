package io.millirank.client;

/** An argument or a field of the request is wrong (INVALID_ARGUMENT). */
public final class InvalidRequestException extends RequestException {
  private static final long serialVersionUID = 1L;

  private final String field;

  InvalidRequestException(String field, String message) {
    super(message);
    this.field = field;
  }

  /** The field in the contract's spelling, such as {@code documents[2].text}; empty if unknown. */
  public String field() {
    return field;
  }
}
