package io.millirank.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.millirank.client.testing.FakeSidecar;
import java.time.Duration;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Wrong arguments are named before the network is used; what only Java can get wrong. tests/vectors has the rest. */
class ArgumentsTest {
  private static Request.Builder<String> request() {
    return Request.builder("query", Asking.DOCUMENTS);
  }

  static Stream<Arguments> wrong() {
    return Stream.of(
        Arguments.of("query", Request.builder("lone \ud800", Asking.DOCUMENTS)),
        Arguments.of("query", Request.builder(null, Asking.DOCUMENTS)),
        Arguments.of("documents[1].text", Request.builder("query", List.of("fine", "\udfff"))),
        Arguments.of("documents[1].text", Request.builder("query", List.of("fine", "ends with \ud800"))),
        Arguments.of("documents[0].text", Request.builder("query", List.of("a"), document -> null)),
        Arguments.of("documents[0].id", request().id(document -> null)),
        Arguments.of(
            "documents[0].signals['bm25']", request().signals(document -> Collections.singletonMap("bm25", null))),
        Arguments.of(
            "documents[0].signals['bm25']", request().signals(document -> Map.of("bm25", Float.NEGATIVE_INFINITY))),
        Arguments.of(
            "documents[0].indexed_ref.id", request().indexedRef(document -> new IndexedRef("docs", "x".repeat(513)))),
        Arguments.of("documents[0].indexed_ref.collection", request().indexedRef(d -> new IndexedRef(null, "7"))),
        Arguments.of("budget_ms", request().budget(null)),
        Arguments.of("budget_ms", request().budget(Duration.ofDays(400_000_000))),
        Arguments.of("max_cost_micro_usd", request().maxCostMicroUsd(-1)));
  }

  @ParameterizedTest
  @MethodSource("wrong")
  void aWrongArgumentIsNamedAndNothingIsSent(String field, Request.Builder<?> wrong) {
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank client = Millirank.builder(sidecar.target()).build()) {
      Request<?> request = wrong.build();
      for (InvalidRequestException error :
          List.of(
              assertThrows(InvalidRequestException.class, () -> client.rerank(request)),
              assertThrows(InvalidRequestException.class, () -> Asking.join(client.rerankAsync(request))),
              assertThrows(InvalidRequestException.class, () -> client.explain(request)))) {
        assertEquals(field, error.field());
        assertTrue(error.getMessage().startsWith(field), error.getMessage());
      }
      assertEquals(List.of(), sidecar.received());
      assertEquals(0, client.stats().calls());
    }
  }

  /** Private text stays out of exceptions. */
  @Test
  void anErrorAboutTextDoesNotQuoteIt() {
    Request<String> request = Request.builder("query", List.of("secret \ud800")).build();
    InvalidRequestException error =
        assertThrows(InvalidRequestException.class, () -> RequestEncoder.encode(request));
    assertFalse(error.getMessage().contains("secret"));
  }

  /** What is sent is what there was when the request was built. */
  @Test
  void theCallersListMayChangeAfterwards() {
    List<String> mine = Arrays.asList("alpha", "beta");
    Request<String> request = Request.builder("query", mine).build();
    mine.set(0, "changed");
    assertEquals("alpha", RequestEncoder.encode(request).getDocuments(0).getText());
  }

  /** Any kind of number may be a signal; emoji and other pairs of surrogates are text. */
  @Test
  void everyNumberIsASignalAndEveryCharacterIsText() {
    Map<String, Number> signals = new HashMap<>();
    signals.put("bm25", 2.5f);
    signals.put("age", 7L);
    var document =
        RequestEncoder.encode(Request.builder("query", List.of("a \ud83d\ude00")).signals(d -> signals).build())
            .getDocuments(0);
    assertEquals(Map.of("bm25", 2.5, "age", 7.0), document.getSignalsMap());
    assertEquals("a \ud83d\ude00", document.getText());
  }

  @ParameterizedTest
  @ValueSource(
      strings = {"localhost", "localhost:99999", "localhost:0", "http://localhost:50051", "https://localhost:1/x", ""})
  void aTargetThatIsNoneIsRefusedWithTheFix(String target) {
    IllegalArgumentException error =
        assertThrows(IllegalArgumentException.class, () -> Millirank.builder(target).build());
    assertTrue(error.getMessage().contains("host:port"), error.getMessage());
  }

  @ParameterizedTest
  @ValueSource(strings = {"localhost:1", "[::1]:1", "unix:/run/x.sock", "dns:///host.example:1", "10.0.0.1:1"})
  void everyKindOfTargetIsTaken(String target) {
    Millirank.builder(target).build().close();
  }

  @Test
  void aWrongSettingIsNamed() {
    Millirank.Builder builder = Millirank.builder("localhost:1");
    assertEquals(
        "reserve_ms",
        assertThrows(InvalidRequestException.class, () -> builder.reserve(Duration.ofMillis(-1))).field());
    assertEquals(
        "slack_ms", assertThrows(InvalidRequestException.class, () -> builder.slack(Duration.ofDays(1))).field());
  }

  /** A value that only a newer sidecar knows is UNSPECIFIED; every value of this contract has a name here. */
  @Test
  void everyEnumValueOfTheContractIsKnown() {
    for (var degradation : io.millirank.v1.DegradationReason.values()) {
      Enums.reason(degradation); // throws where this package lacks the name
    }
    assertEquals(Strategy.UNSPECIFIED, Enums.strategy(io.millirank.v1.Strategy.UNRECOGNIZED));
    assertEquals(Verdict.UNSPECIFIED, Enums.verdict(io.millirank.v1.Verdict.UNRECOGNIZED));
    assertEquals(Mode.OBSERVE, Enums.mode(io.millirank.v1.Mode.MODE_OBSERVE));
    for (Strategy strategy : Strategy.values()) {
      assertEquals(strategy, Enums.strategy(Enums.strategy(strategy)));
    }
  }
}
