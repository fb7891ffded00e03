package io.millirank.client;

/** Why an ordering is less than planned. The last three come from this client only. */
public enum Reason {
  /** The budget is too small for any arm that would help, or zero. */
  BUDGET_TOO_SMALL,
  /** Time ran out on the way. */
  BUDGET_EXHAUSTED,
  /** Too much other work was ahead of this request. */
  OVERLOADED,
  /** The model is still loading. */
  NOT_READY,
  /** The model or its API failed. */
  BACKEND_ERROR,
  /** The model or its API did not answer in time. */
  BACKEND_TIMEOUT,
  /** The model or its API failed too often a moment ago. */
  CIRCUIT_OPEN,
  /** The model's answer could not be used. */
  BAD_OUTPUT,
  /** The index that holds the documents' vectors can't be read. */
  INDEX_UNAVAILABLE,
  /** The sidecar is shutting down. */
  DRAINING,
  /** A bug in the sidecar, contained; also a reason that this client does not know. */
  INTERNAL,
  /** The sidecar did not answer within the budget. */
  SIDECAR_TIMEOUT,
  /** The sidecar could not be reached, or the connection broke. */
  SIDECAR_UNAVAILABLE,
  /** The sidecar answered with an error, or with an ordering that can't be used. */
  SIDECAR_ERROR
}
