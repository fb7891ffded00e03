package io.millirank.client;

/** How much of the planned work is in an ordering. */
public enum Outcome {
  /** All of it. The plan may have been to keep the first-stage order: then {@link Decision#strategy} is NONE. */
  RANKED,
  /** The best-ranked candidates were scored; the rest follow in first-stage order. */
  PARTIAL,
  /** None of it: this is the first-stage order. {@link Ranking#reasons} says why. */
  FIRST_STAGE
}
