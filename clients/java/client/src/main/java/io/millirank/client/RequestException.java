package io.millirank.client;

/** The request is wrong and would be wrong again: thrown also when the call is not strict. */
public abstract sealed class RequestException extends MillirankException
    permits InvalidRequestException, RerankerNotFoundException, RerankerOffException {
  private static final long serialVersionUID = 1L;

  RequestException(String message) {
    super(message);
  }
}
