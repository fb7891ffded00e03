package io.millirank.client;

import java.time.Duration;

/**
 * Where the time went, on the sidecar's clock.
 *
 * @param total from the request's bytes to the response's
 * @param route looking at the request and deciding
 * @param queue waiting for the model to be free
 * @param score scoring
 */
public record Timing(Duration total, Duration route, Duration queue, Duration score) {}
