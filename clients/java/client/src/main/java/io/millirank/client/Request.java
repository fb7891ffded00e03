package io.millirank.client;

import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * What to rerank: a query, the caller's own candidates, and what may be spent. Immutable; may be used again.
 *
 * <pre>{@code
 * Request.builder(query, hits, Hit::body)
 *     .signals(hit -> Map.of("bm25", hit.score()))
 *     .budget(Duration.ofMillis(80))
 *     .topN(10)
 *     .build();
 * }</pre>
 *
 * Wrong values are found by the call, which throws {@link InvalidRequestException}.
 */
public final class Request<T> {
  final String query;
  final List<T> documents;
  final Function<? super T, String> text;
  final @Nullable Function<? super T, String> id;
  final @Nullable Function<? super T, ? extends Map<String, ? extends Number>> signals;
  final @Nullable Function<? super T, @Nullable IndexedRef> indexedRef;
  final Duration budget;
  final String corpus;
  final int topN;
  final Strategy strategy;
  final String reranker;
  final List<Strategy> allowed;
  final int rerankK;
  final String instruction;
  final @Nullable Double minScore;
  final @Nullable Long maxCostMicroUsd;
  final String tenant;
  final String requestId;
  final boolean useCache;
  final boolean strict;

  private Request(Builder<T> builder) {
    this.query = builder.query;
    this.documents = builder.documents;
    this.text = builder.text;
    this.id = builder.id;
    this.signals = builder.signals;
    this.indexedRef = builder.indexedRef;
    this.budget = builder.budget;
    this.corpus = builder.corpus;
    this.topN = builder.topN;
    this.strategy = builder.strategy;
    this.reranker = builder.reranker;
    this.allowed = builder.allowed;
    this.rerankK = builder.rerankK;
    this.instruction = builder.instruction;
    this.minScore = builder.minScore;
    this.maxCostMicroUsd = builder.maxCostMicroUsd;
    this.tenant = builder.tenant;
    this.requestId = builder.requestId;
    this.useCache = builder.useCache;
    this.strict = builder.strict;
  }

  /**
   * A request for {@code documents}, the first stage's best first, of any class.
   *
   * @param text reads the text that is scored; only it, the id and the signals leave the process
   * @throws NullPointerException where the list is null or holds a null
   */
  public static <T> Builder<T> builder(
      String query, Collection<? extends T> documents, Function<? super T, String> text) {
    return new Builder<>(query, List.copyOf(documents), text);
  }

  /** A request for documents that are nothing but their text. */
  public static Builder<String> builder(String query, Collection<String> documents) {
    return builder(query, documents, Function.identity());
  }

  /** Collects the options of a {@link Request}; every one has a default. */
  public static final class Builder<T> {
    private final String query;
    private final List<T> documents;
    private final Function<? super T, String> text;
    private @Nullable Function<? super T, String> id;
    private @Nullable Function<? super T, ? extends Map<String, ? extends Number>> signals;
    private @Nullable Function<? super T, @Nullable IndexedRef> indexedRef;
    private Duration budget = Duration.ofMillis(100);
    private String corpus = "";
    private int topN;
    private Strategy strategy = Strategy.AUTO;
    private String reranker = "";
    private List<Strategy> allowed = List.of();
    private int rerankK;
    private String instruction = "";
    private @Nullable Double minScore;
    private @Nullable Long maxCostMicroUsd;
    private String tenant = "";
    private String requestId = "";
    private boolean useCache = true;
    private boolean strict;

    private Builder(String query, List<T> documents, Function<? super T, String> text) {
      this.query = query;
      this.documents = documents;
      this.text = text;
    }

    /** How to read a document's id, at most 512 characters. It stands in results for people; may repeat. */
    public Builder<T> id(Function<? super T, String> reader) {
      this.id = reader;
      return this;
    }

    /** How to read the first stage's scores ({@code bm25}, {@code dense}, ...), higher is better; at most 16. */
    public Builder<T> signals(Function<? super T, ? extends Map<String, ? extends Number>> reader) {
      this.signals = reader;
      return this;
    }

    /** How to read where a document's vectors lie (null: nowhere). With it, the text may be empty. */
    public Builder<T> indexedRef(Function<? super T, @Nullable IndexedRef> reader) {
      this.indexedRef = reader;
      return this;
    }

    /** What the caller can wait; 0 to one hour, 100 ms by default. */
    public Builder<T> budget(Duration latency) {
      this.budget = latency;
      return this;
    }

    /** Which corpus the candidates come from: selects the calibrated profile. */
    public Builder<T> corpus(String name) {
      this.corpus = name;
      return this;
    }

    /** How many results to return; 0, the default, returns all. */
    public Builder<T> topN(int count) {
      this.topN = count;
      return this;
    }

    /** Forces a strategy; {@link Strategy#AUTO}, the default, lets the router choose. */
    public Builder<T> strategy(Strategy forced) {
      this.strategy = forced;
      return this;
    }

    /** Forces a configured reranker by name. */
    public Builder<T> reranker(String name) {
      this.reranker = name;
      return this;
    }

    /** With {@link Strategy#AUTO}, only these strategies. */
    public Builder<T> allowed(Strategy... strategies) {
      this.allowed = List.of(strategies);
      return this;
    }

    /** Forces how many candidates are scored, from the top; 0, the default, lets the router choose. */
    public Builder<T> rerankK(int count) {
      this.rerankK = count;
      return this;
    }

    /** What the user wants beyond relevance ("prefer recent ones"); only LLM arms follow it. */
    public Builder<T> instruction(String wish) {
      this.instruction = wish;
      return this;
    }

    /** Leaves out scored documents whose {@link Ranked#rawScore} is lower. */
    public Builder<T> minScore(double rawScore) {
      this.minScore = rawScore;
      return this;
    }

    /** Price limit in millionths of a US dollar; 0: nothing that costs money. */
    public Builder<T> maxCostMicroUsd(long limit) {
      this.maxCostMicroUsd = limit;
      return this;
    }

    /** Separates cached answers of different customers from each other. */
    public Builder<T> tenant(String name) {
      this.tenant = name;
      return this;
    }

    /** The caller's id for this request; stands in logs and traces. */
    public Builder<T> requestId(String identifier) {
      this.requestId = identifier;
      return this;
    }

    /** Whether an equal request's answer may be used, and this one kept; true by default. */
    public Builder<T> useCache(boolean use) {
      this.useCache = use;
      return this;
    }

    /** Throw {@link RerankException} instead of answering less than planned; false by default. */
    public Builder<T> strict(boolean strictly) {
      this.strict = strictly;
      return this;
    }

    /** The request. */
    public Request<T> build() {
      return new Request<>(this);
    }
  }
}
