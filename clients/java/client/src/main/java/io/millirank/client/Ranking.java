package io.millirank.client;

import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The candidates, best first, and how that order came about.
 *
 * @param results the candidates in their new order
 * @param outcome how much of the planned work is in it
 * @param degradations why it is less than planned; empty when it is not
 * @param fallback whether this client made the ordering because no usable answer came
 * @param requestId the request's id, or the one that the sidecar made
 * @param elapsed what the caller waited, from the call to this object
 * @param decision what the router decided; null for a fallback, and where there was nothing to ask
 * @param timing where the sidecar's time went; null like {@code decision}
 * @param usage what the sidecar computed; null like {@code decision}
 * @param cacheStatus whether the answer was computed for this request
 */
public record Ranking<T>(
    List<Ranked<T>> results,
    Outcome outcome,
    List<Degradation> degradations,
    boolean fallback,
    String requestId,
    Duration elapsed,
    @Nullable Decision decision,
    @Nullable Timing timing,
    @Nullable Usage usage,
    CacheStatus cacheStatus)
    implements Iterable<Ranked<T>> {

  /** The caller's own objects, best first. */
  public List<T> documents() {
    return results.stream().map(Ranked::document).toList();
  }

  /** Why this is less than planned; empty when it is not. */
  public List<Reason> reasons() {
    return degradations.stream().map(Degradation::reason).toList();
  }

  @Override
  public Iterator<Ranked<T>> iterator() {
    return results.iterator();
  }
}
