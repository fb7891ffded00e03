package io.millirank.client;

import org.jspecify.annotations.Nullable;

/**
 * One candidate in the new order.
 *
 * @param document the very object that the caller passed
 * @param index its position in the caller's list, from 0: its first-stage rank
 * @param score what the scored candidates are ordered by, comparable only within one ranking; null where nothing
 *     scored this candidate
 * @param rawScore the model's own score; null where no model scored this candidate
 * @param truncated only the beginning of its text was read
 */
public record Ranked<T>(T document, int index, @Nullable Double score, @Nullable Double rawScore, boolean truncated) {}
