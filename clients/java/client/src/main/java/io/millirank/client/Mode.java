package io.millirank.client;

/** What the sidecar as a whole was allowed to do. */
public enum Mode {
  /** A mode that this client does not know. */
  UNSPECIFIED,
  /** Every answer is the first-stage order. */
  OFF,
  /** Every answer is the first-stage order; reranking happens behind it and is traced. */
  OBSERVE,
  /** Reranked answers are returned. */
  ON
}
