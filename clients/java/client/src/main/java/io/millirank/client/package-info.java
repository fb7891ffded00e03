/**
 * The Java client of Millirank, the sidecar that reranks within a latency budget.
 *
 * <p>{@link io.millirank.client.Millirank} is the client, {@link io.millirank.client.Request} what it is asked, {@link
 * io.millirank.client.Ranking} what it answers.
 */
@NullMarked
package io.millirank.client;

import org.jspecify.annotations.NullMarked;
