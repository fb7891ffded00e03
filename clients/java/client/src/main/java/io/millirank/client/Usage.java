package io.millirank.client;

/**
 * What the sidecar computed for an answer.
 *
 * @param pairs query-document pairs that a model scored
 * @param cachedPairs of those, how many needed no model run
 * @param tokens tokens that the model read
 * @param costMicroUsd price in millionths of a US dollar
 */
public record Usage(int pairs, int cachedPairs, long tokens, long costMicroUsd) {}
