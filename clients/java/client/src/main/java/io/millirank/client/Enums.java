package io.millirank.client;

import io.millirank.v1.DegradationReason;
import java.util.EnumMap;
import java.util.Map;

/** The contract's enums and this package's, by name; a value that only a newer sidecar knows is UNSPECIFIED. */
final class Enums {
  private static final Map<io.millirank.v1.Strategy, Strategy> STRATEGIES =
      byName(io.millirank.v1.Strategy.class, "STRATEGY_", Strategy.class);
  private static final Map<io.millirank.v1.DecisionReason, DecisionReason> DECISION_REASONS =
      byName(io.millirank.v1.DecisionReason.class, "DECISION_REASON_", DecisionReason.class);
  private static final Map<io.millirank.v1.Verdict, Verdict> VERDICTS =
      byName(io.millirank.v1.Verdict.class, "VERDICT_", Verdict.class);
  private static final Map<io.millirank.v1.Mode, Mode> MODES =
      byName(io.millirank.v1.Mode.class, "MODE_", Mode.class);
  private static final Map<io.millirank.v1.CacheStatus, CacheStatus> CACHE_STATUSES =
      byName(io.millirank.v1.CacheStatus.class, "CACHE_STATUS_", CacheStatus.class);

  private Enums() {}

  static io.millirank.v1.Strategy strategy(Strategy strategy) {
    return io.millirank.v1.Strategy.valueOf("STRATEGY_" + strategy.name());
  }

  static Strategy strategy(io.millirank.v1.Strategy strategy) {
    return STRATEGIES.getOrDefault(strategy, Strategy.UNSPECIFIED);
  }

  static DecisionReason decisionReason(io.millirank.v1.DecisionReason reason) {
    return DECISION_REASONS.getOrDefault(reason, DecisionReason.UNSPECIFIED);
  }

  static Verdict verdict(io.millirank.v1.Verdict verdict) {
    return VERDICTS.getOrDefault(verdict, Verdict.UNSPECIFIED);
  }

  static Mode mode(io.millirank.v1.Mode mode) {
    return MODES.getOrDefault(mode, Mode.UNSPECIFIED);
  }

  static CacheStatus cacheStatus(io.millirank.v1.CacheStatus status) {
    return CACHE_STATUSES.getOrDefault(status, CacheStatus.UNSPECIFIED);
  }

  /** An unknown one counts as INTERNAL, says the contract. */
  static Reason reason(DegradationReason reason) {
    return switch (reason) {
      case DEGRADATION_REASON_UNSPECIFIED, UNRECOGNIZED -> Reason.INTERNAL;
      default -> Reason.valueOf(reason.name().substring("DEGRADATION_REASON_".length()));
    };
  }

  private static <P extends Enum<P>, E extends Enum<E>> Map<P, E> byName(
      Class<P> generated, String prefix, Class<E> ours) {
    Map<P, E> found = new EnumMap<>(generated);
    for (P constant : generated.getEnumConstants()) {
      if (!constant.name().equals("UNRECOGNIZED")) {
        found.put(constant, Enum.valueOf(ours, constant.name().substring(prefix.length())));
      }
    }
    return found;
  }
}
