package io.millirank.client;

import java.time.Duration;

/**
 * One thing that the router could have done: a reranker at a given number of candidates.
 *
 * @param strategy what the arm implements
 * @param reranker the configured reranker's name; empty for NONE and SIGNALS
 * @param rerankK how many candidates, from the top, it would score
 * @param predictedP50 predicted median time, queue included
 * @param predictedP95 predicted 95th percentile
 * @param expectedGain expected change of nDCG@10 against the first-stage order
 * @param predictedCostMicroUsd predicted price in millionths of a US dollar
 * @param verdict what was concluded
 * @param detail the verdict in words, for a person
 */
public record ConsideredArm(
    Strategy strategy,
    String reranker,
    int rerankK,
    Duration predictedP50,
    Duration predictedP95,
    double expectedGain,
    long predictedCostMicroUsd,
    Verdict verdict,
    String detail) {}
