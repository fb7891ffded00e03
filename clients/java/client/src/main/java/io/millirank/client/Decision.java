package io.millirank.client;

import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * What was decided for one request, and why.
 *
 * @param id unique; also on the trace
 * @param strategy the strategy taken; NONE means first-stage order
 * @param reranker the reranker's configured name; empty for NONE and SIGNALS
 * @param modelRevision changes with weights, tokenizer, prompt or truncation
 * @param profileCorpus the corpus whose profile decided; {@code default} where the request's has none
 * @param profileRevision digest of that profile
 * @param plannedK how many candidates were to be scored
 * @param scoredK how many were; fewer than planned means that the ranking's degradations say why
 * @param reason why this arm
 * @param considered every arm that was looked at; empty where nothing was to be decided
 * @param mode the mode that the sidecar was in
 * @param spendable what the router could spend after the sidecar's own reserve
 */
public record Decision(
    String id,
    Strategy strategy,
    String reranker,
    String modelRevision,
    String profileCorpus,
    String profileRevision,
    int plannedK,
    int scoredK,
    DecisionReason reason,
    List<ConsideredArm> considered,
    Mode mode,
    Duration spendable) {

  /** The considered arm that was taken; empty where nothing was to be decided. */
  public Optional<ConsideredArm> chosen() {
    return considered.stream().filter(arm -> arm.verdict() == Verdict.CHOSEN).findFirst();
  }
}
