package io.millirank.client;

import java.util.Map;

/**
 * A snapshot of what a client has answered since it was made.
 *
 * <p>{@code calls} = {@code ranked} + {@code partial} + {@code firstStage} + {@code raised} + those still running.
 *
 * @param calls reranks that passed the argument checks
 * @param ranked answers with outcome RANKED
 * @param partial answers with outcome PARTIAL
 * @param firstStage answers with outcome FIRST_STAGE, the sidecar's own and the fallbacks
 * @param raised reranks that ended by an exception: strict ones, cancelled ones, mistakes that the sidecar found
 * @param fallbacks by reason, the orderings that this client made itself
 * @param late answers that came after their budget and were dropped, as far as they came within the slack
 */
public record Stats(
    long calls, long ranked, long partial, long firstStage, long raised, Map<Reason, Long> fallbacks, long late) {}
