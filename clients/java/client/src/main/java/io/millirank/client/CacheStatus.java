package io.millirank.client;

/** Whether the answer was computed for this request. */
public enum CacheStatus {
  /** The sidecar did not say, or this client does not know what it said. */
  UNSPECIFIED,
  /** Computed for this request. */
  MISS,
  /** Kept from an equal request. */
  HIT,
  /** An equal request was being computed at the same time; both got its answer. */
  SHARED
}
