package io.millirank.client;

/** How candidates are reordered. */
public enum Strategy {
  /** In an answer: a strategy that this client does not know. */
  UNSPECIFIED,
  /** The router chooses, per request. */
  AUTO,
  /** No rerank: first-stage order. */
  NONE,
  /** Calibrated fusion of the candidates' own signals; no model runs. */
  SIGNALS,
  /** A cross-encoder reads the query and each document together. */
  CROSS_ENCODER,
  /** Late interaction: one vector per token. */
  LATE_INTERACTION,
  /** A large language model scores the candidates and follows {@link Request.Builder#instruction}. */
  LLM,
  /** One strategy over the wide list, a heavier one over the top of its result. */
  CASCADE
}
