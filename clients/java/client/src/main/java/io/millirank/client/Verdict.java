package io.millirank.client;

/** What the router concluded about one arm. */
public enum Verdict {
  /** A verdict that this client does not know. */
  UNSPECIFIED,
  /** The arm that the decision takes. */
  CHOSEN,
  /** It fits, but another arm's expected gain is higher (or equal and cheaper). */
  LOWER_GAIN,
  /** It would gain more than the chosen arm, but too little for the additional milliseconds. */
  NOT_WORTH_ITS_TIME,
  /** Its predicted p95 does not fit what is left of the budget. */
  OVER_BUDGET,
  /** Its predicted price does not fit. */
  OVER_COST,
  /** Calibration expects no gain, or harm. */
  NO_GAIN,
  /** The request excludes it. */
  NOT_ALLOWED,
  /** Its model is still loading or restarting. */
  NOT_READY,
  /** It is switched off; {@link ConsideredArm#detail} says why. */
  OFF,
  /** Its backend failed too often a moment ago. */
  CIRCUIT_OPEN,
  /** It can't score these documents; {@link ConsideredArm#detail} says why. */
  CANNOT_SCORE
}
