package io.millirank.client;

/** Why the router decided as it did. */
public enum DecisionReason {
  /** A reason that this client does not know. */
  UNSPECIFIED,
  /** The arm with the best expected quality that fits the budget and earns its time. */
  BEST_EXPECTED_GAIN,
  /** The caller named the strategy or the reranker. */
  FORCED,
  /** Arms that would help exist, but none of them fits the time or the money. */
  BUDGET_TOO_SMALL,
  /** No available arm is expected to improve on the first stage. */
  NO_GAIN,
  /** The arms that would help are not ready yet, or their circuit is open. */
  NOT_READY,
  /** Fewer than two documents. */
  NOTHING_TO_DO,
  /** The sidecar is switched off. */
  MODE_OFF
}
