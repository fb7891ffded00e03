package io.millirank.client;

import io.millirank.v1.Budget;
import io.millirank.v1.CacheControl;
import io.millirank.v1.Document;
import io.millirank.v1.OverrunPolicy;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.Routing;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The caller's request -> the message, or an error that names the field and the fix.
 *
 * <p>The limits that a sidecar's operator can change (documents, characters of the query) are left to the sidecar.
 * Checked here is what the contract fixes, what could not be encoded, and what would otherwise go unnoticed as long as
 * the sidecar is down. No message quotes the caller's text: it may be private.
 */
final class RequestEncoder {
  private static final Duration MAX_BUDGET = Duration.ofHours(1);
  private static final int MAX_NAME = 128;
  private static final int MAX_ID = 512;
  private static final int MAX_SIGNALS = 16;

  private RequestEncoder() {}

  /** {@code budget} in ns if it is from 0 to an hour; {@code field} is what the error calls it. */
  static long checkBudget(@Nullable Duration budget, String field) {
    if (budget == null || budget.isNegative() || budget.compareTo(MAX_BUDGET) > 0) {
      throw new InvalidRequestException(field, field + " is " + budget + "; pass a duration from 0 to an hour");
    }
    return budget.toNanos();
  }

  /** The message, all but its latency budget, which is known only when it is sent. */
  static <T> RerankRequest.Builder encode(Request<T> request) {
    if (request.query == null || request.query.isBlank()) {
      throw new InvalidRequestException("query", "query is empty; pass the user's query");
    }
    RerankRequest.Builder message =
        RerankRequest.newBuilder()
            .setQuery(text(request.query, "query"))
            .setInstruction(text(request.instruction, "instruction"))
            .setCorpus(name(request.corpus, "corpus", MAX_NAME))
            .setTenant(name(request.tenant, "tenant", MAX_NAME))
            .setRequestId(name(request.requestId, "request_id", MAX_NAME))
            .setTopN(count(request.topN, "top_n"))
            .setRouting(routing(request))
            .setBudget(budget(request));
    if (request.minScore != null) {
      message.setMinScore(finite(request.minScore, "min_score"));
    }
    if (!request.useCache) {
      message.setCacheControl(CacheControl.CACHE_CONTROL_BYPASS);
    }
    List<T> documents = request.documents;
    for (int position = 0; position < documents.size(); position++) {
      message.addDocuments(document(request, documents.get(position), position));
    }
    return message;
  }

  private static Routing routing(Request<?> request) {
    Routing.Builder routing =
        Routing.newBuilder()
            .setStrategy(Enums.strategy(request.strategy))
            .setReranker(text(request.reranker, "reranker"))
            .setRerankK(count(request.rerankK, "rerank_k"));
    for (Strategy strategy : request.allowed) {
      routing.addAllowed(Enums.strategy(strategy));
    }
    return routing.build();
  }

  private static Budget budget(Request<?> request) {
    Budget.Builder budget = Budget.newBuilder();
    if (request.maxCostMicroUsd != null) {
      if (request.maxCostMicroUsd < 0) {
        throw new InvalidRequestException(
            "max_cost_micro_usd", "max_cost_micro_usd is " + request.maxCostMicroUsd + "; it has to be from 0");
      }
      budget.setMaxCostMicroUsd(request.maxCostMicroUsd);
    }
    if (request.strict) {
      budget.setOverrunPolicy(OverrunPolicy.OVERRUN_POLICY_FAIL);
    }
    return budget.build();
  }

  private static <T> Document document(Request<T> request, T document, int position) {
    Document.Builder message = Document.newBuilder();
    String text = request.text.apply(document);
    int bad = text == null ? -1 : loneSurrogate(text);
    if (text == null || bad >= 0) {
      throw wrongText(text, bad, "documents[" + position + "].text");
    }
    message.setText(text);
    // The names are put together only where they are needed: this runs for every candidate, within the budget.
    if (request.id != null) {
      message.setId(name(request.id.apply(document), "documents[" + position + "].id", MAX_ID));
    }
    if (request.signals != null) {
      signals(message, request.signals.apply(document), "documents[" + position + "].signals");
    }
    IndexedRef ref = request.indexedRef == null ? null : request.indexedRef.apply(document);
    if (ref != null) {
      String where = "documents[" + position + "].indexed_ref";
      message
          .getIndexedRefBuilder()
          .setCollection(required(ref.collection(), where + ".collection"))
          .setId(required(ref.id(), where + ".id"));
    }
    return message.build();
  }

  private static void signals(
      Document.Builder message, @Nullable Map<String, ? extends Number> signals, String where) {
    if (signals == null) {
      return;
    }
    if (signals.size() > MAX_SIGNALS) {
      throw new InvalidRequestException(
          where, where + " has " + signals.size() + " entries; at most " + MAX_SIGNALS + " are allowed");
    }
    for (Map.Entry<String, ? extends Number> signal : signals.entrySet()) {
      String field = where + "['" + signal.getKey() + "']";
      Number value = signal.getValue();
      if (value == null) {
        throw new InvalidRequestException(field, field + " is null; leave a signal out that a document lacks");
      }
      message.putSignals(text(signal.getKey(), field), finite(value.doubleValue(), field));
    }
  }

  private static String required(@Nullable String value, String field) {
    String checked = name(value, field, MAX_ID);
    if (checked.isEmpty()) {
      throw new InvalidRequestException(field, field + " is empty; say where the document lies");
    }
    return checked;
  }

  private static String name(@Nullable String value, String field, int limit) {
    String checked = text(value, field);
    // The contract counts characters, which are code points.
    if (checked.length() > limit && checked.codePointCount(0, checked.length()) > limit) {
      throw new InvalidRequestException(
          field,
          field + " has " + checked.codePointCount(0, checked.length()) + " characters; at most " + limit
              + " are allowed");
    }
    return checked;
  }

  private static String text(@Nullable String value, String field) {
    int bad = value == null ? -1 : loneSurrogate(value);
    if (value == null || bad >= 0) {
      throw wrongText(value, bad, field);
    }
    return value;
  }

  private static InvalidRequestException wrongText(@Nullable String value, int position, String field) {
    return new InvalidRequestException(
        field,
        value == null
            ? field + " is null; it has to be a string"
            : field + " has a lone surrogate at position " + position + " and can't be sent as UTF-8; clean it");
  }

  /** Protobuf would silently send a question mark in its place. -1: there is none. */
  private static int loneSurrogate(String value) {
    for (int i = 0; i < value.length(); i++) {
      char c = value.charAt(i);
      if (Character.isSurrogate(c)) {
        if (Character.isLowSurrogate(c) || i + 1 == value.length() || !Character.isLowSurrogate(value.charAt(i + 1))) {
          return i;
        }
        i++;
      }
    }
    return -1;
  }

  private static double finite(double value, String field) {
    if (!Double.isFinite(value)) {
      throw new InvalidRequestException(field, field + " is " + value + "; it has to be finite");
    }
    return value;
  }

  private static int count(int value, String field) {
    if (value < 0) {
      throw new InvalidRequestException(field, field + " is " + value + "; it has to be from 0");
    }
    return value;
  }
}
