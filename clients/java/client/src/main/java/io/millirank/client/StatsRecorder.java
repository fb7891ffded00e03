package io.millirank.client;

import java.util.EnumMap;
import java.util.Map;

/** The counters of one client. Safe to use from several threads. */
final class StatsRecorder {
  private final Map<Outcome, Long> outcomes = new EnumMap<>(Outcome.class);
  private final Map<Reason, Long> fallbacks = new EnumMap<>(Reason.class);
  private long calls;
  private long raised;
  private long late;

  /** A call passed the argument checks. */
  synchronized void started() {
    calls++;
  }

  /** A call returned an ordering. */
  synchronized void answered(Ranking<?> ranking) {
    outcomes.merge(ranking.outcome(), 1L, Long::sum);
    if (ranking.fallback()) {
      ranking.degradations().forEach(each -> fallbacks.merge(each.reason(), 1L, Long::sum));
    }
  }

  /** A call ended by an exception. */
  synchronized void raised() {
    raised++;
  }

  /** An answer came after its caller had been answered. */
  synchronized void late() {
    late++;
  }

  /** All counters at one moment. */
  synchronized Stats snapshot() {
    return new Stats(
        calls,
        outcomes.getOrDefault(Outcome.RANKED, 0L),
        outcomes.getOrDefault(Outcome.PARTIAL, 0L),
        outcomes.getOrDefault(Outcome.FIRST_STAGE, 0L),
        raised,
        Map.copyOf(fallbacks),
        late);
  }
}
