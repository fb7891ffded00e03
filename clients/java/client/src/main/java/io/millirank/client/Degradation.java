package io.millirank.client;

/**
 * One cause of an answer that is less than planned.
 *
 * @param reason the cause
 * @param detail in words, for a person; not to be parsed
 */
public record Degradation(Reason reason, String detail) {}
