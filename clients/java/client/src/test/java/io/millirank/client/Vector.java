package io.millirank.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** One vector of tests/vectors; its README has the schema. A key that is not known here is refused. */
record Vector(JsonObject json) {
  private static final Path FOLDER = Repository.ROOT.resolve("tests/vectors");

  /** The caller's own class of document. */
  record Hit(String text, String id, Map<String, Double> signals, @Nullable IndexedRef ref) {}

  Vector {
    known(json, "name", "contract", "call", "client", "request", "sidecar", "expect");
  }

  static List<Path> files() throws IOException {
    try (Stream<Path> entries = Files.list(FOLDER)) {
      return entries.filter(path -> path.toString().endsWith(".json")).sorted().toList();
    }
  }

  static List<Vector> read(Path file) throws IOException {
    JsonArray vectors = JsonParser.parseString(Files.readString(file)).getAsJsonObject().getAsJsonArray("vectors");
    assertTrue(vectors.size() > 0, "no vectors in " + file);
    return vectors.asList().stream().map(each -> new Vector(each.getAsJsonObject())).toList();
  }

  String name() {
    return json.get("name").getAsString();
  }

  boolean explain() {
    return json.has("call") && json.get("call").getAsString().equals("explain");
  }

  List<JsonObject> script() {
    return json.getAsJsonArray("sidecar").asList().stream().map(JsonElement::getAsJsonObject).toList();
  }

  Expected expected() {
    return new Expected(json.getAsJsonObject("expect"));
  }

  Millirank client(String target) {
    Millirank.Builder builder = Millirank.builder(target);
    JsonObject settings = json.has("client") ? json.getAsJsonObject("client") : new JsonObject();
    for (String key : settings.keySet()) {
      Duration value = duration(settings.get(key));
      switch (key) {
        case "reserve_ms" -> builder.reserve(value);
        case "slack_ms" -> builder.slack(value);
        default -> throw new IllegalArgumentException("unknown key " + key);
      }
    }
    return builder.build();
  }

  Request<Hit> request() {
    JsonObject request = json.getAsJsonObject("request");
    Request.Builder<Hit> builder =
        Request.<Hit>builder(request.get("query").getAsString(), hits(request), Hit::text)
            .id(Hit::id)
            .signals(Hit::signals)
            .indexedRef(Hit::ref);
    for (String key : request.keySet()) {
      JsonElement value = request.get(key);
      switch (key) {
        case "query", "documents", "generated_documents" -> {}
        case "budget_ms" -> builder.budget(duration(value));
        case "corpus" -> builder.corpus(value.getAsString());
        case "top_n" -> builder.topN(value.getAsInt());
        case "strategy" -> builder.strategy(Strategy.valueOf(value.getAsString()));
        case "reranker" -> builder.reranker(value.getAsString());
        case "allowed" ->
            builder.allowed(
                value.getAsJsonArray().asList().stream()
                    .map(each -> Strategy.valueOf(each.getAsString()))
                    .toArray(Strategy[]::new));
        case "rerank_k" -> builder.rerankK(value.getAsInt());
        case "instruction" -> builder.instruction(value.getAsString());
        case "min_score" -> builder.minScore(value.getAsDouble()); // "NaN" and "Infinity" too
        case "max_cost_micro_usd" -> builder.maxCostMicroUsd(value.getAsLong());
        case "tenant" -> builder.tenant(value.getAsString());
        case "request_id" -> builder.requestId(value.getAsString());
        case "use_cache" -> builder.useCache(value.getAsBoolean());
        case "strict" -> builder.strict(value.getAsBoolean());
        default -> throw new IllegalArgumentException("unknown key " + key);
      }
    }
    return builder.build();
  }

  private static List<Hit> hits(JsonObject request) {
    List<Hit> hits = new ArrayList<>();
    if (request.has("generated_documents")) {
      JsonObject generated = request.getAsJsonObject("generated_documents");
      known(generated, "count", "characters");
      String text = "x".repeat(generated.get("characters").getAsInt());
      for (int i = 0; i < generated.get("count").getAsInt(); i++) {
        hits.add(new Hit(text, "", Map.of(), null));
      }
      return hits;
    }
    for (JsonElement each : request.getAsJsonArray("documents")) {
      JsonObject document = each.getAsJsonObject();
      known(document, "text", "id", "signals", "indexed_ref");
      Map<String, Double> signals = new HashMap<>();
      if (document.has("signals")) {
        JsonObject values = document.getAsJsonObject("signals");
        values.keySet().forEach(name -> signals.put(name, values.get(name).getAsDouble()));
      }
      JsonArray ref = document.getAsJsonArray("indexed_ref");
      hits.add(
          new Hit(
              document.get("text").getAsString(),
              document.has("id") ? document.get("id").getAsString() : "",
              signals,
              ref == null ? null : new IndexedRef(ref.get(0).getAsString(), ref.get(1).getAsString())));
    }
    return hits;
  }

  static Duration duration(JsonElement milliseconds) {
    return Duration.ofNanos(Math.round(milliseconds.getAsDouble() * 1e6));
  }

  static void known(JsonObject object, String... keys) {
    Set<String> allowed = Set.of(keys);
    object.keySet().forEach(key -> assertTrue(allowed.contains(key), () -> "unknown key " + key + " in a vector"));
  }

  /** What has to come of it; a key that is absent is not checked. */
  record Expected(JsonObject json) {
    Expected {
      known(json, "outcome", "fallback", "reasons", "order", "first_stage_of", "scores", "raw_scores", "strategy",
          "decision_reason", "request_id", "error", "requests", "sent", "latency_ms", "deadline_ms", "stats",
          "settle_ms", "took_ms");
    }

    boolean has(String key) {
      return json.has(key);
    }

    JsonElement get(String key) {
      return json.get(key);
    }

    @Nullable JsonObject stats() {
      return json.getAsJsonObject("stats");
    }

    long settleMs() {
      return json.has("settle_ms") ? json.get("settle_ms").getAsLong() : 0;
    }

    double @Nullable [] bounds(String key) {
      JsonArray pair = json.getAsJsonArray(key);
      return pair == null ? null : new double[] {pair.get(0).getAsDouble(), pair.get(1).getAsDouble()};
    }

    void check(String key, Object actual) {
      if (has(key)) {
        assertEquals(get(key), plain(actual), key);
      }
    }

    void checkWithin(String key, double actual) {
      double[] bounds = bounds(key);
      if (bounds != null) {
        assertTrue(
            bounds[0] <= actual && actual <= bounds[1], () -> key + " is " + actual + ", allowed: " + get(key));
      }
    }

    private static JsonElement plain(@Nullable Object value) {
      if (value == null) {
        return JsonNull.INSTANCE;
      } else if (value instanceof List<?> list) {
        JsonArray array = new JsonArray();
        list.forEach(each -> array.add(plain(each)));
        return array;
      } else if (value instanceof Number number) {
        return new JsonPrimitive(number);
      } else if (value instanceof Boolean bool) {
        return new JsonPrimitive(bool);
      }
      return new JsonPrimitive((String) value);
    }
  }
}
