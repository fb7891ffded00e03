package io.millirank.client;

import static io.millirank.client.Asking.DOCUMENTS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.millirank.client.testing.FakeSidecar;
import io.millirank.client.testing.Received;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Test;

/** A bearer token: sent with every call, and never over a network in plain text. */
class TokenTest {
  private static final String TOKEN = "s3cret";
  private static final String NETWORK = "192.0.2.7:50051"; // an address that is nobody's (RFC 5737)

  /** {@code authorization: Bearer ...} goes with rerank and explain; loopback needs no TLS. */
  @Test
  void everyCallCarriesIt() {
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank client = Millirank.builder(sidecar.target()).token(TOKEN).build()) {
      Request<String> request = Request.builder("query", DOCUMENTS).budget(Duration.ofSeconds(10)).build();
      client.rerank(request);
      client.explain(request, Duration.ofSeconds(10));
      Metadata.Key<String> key = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
      List<String> sent = sidecar.received().stream().map(Received::headers).map(each -> each.get(key)).toList();
      assertEquals(List.of("Bearer " + TOKEN, "Bearer " + TOKEN), sent);
    }
  }

  /** The error names the target and the fix, and does not repeat the token; with TLS the same target is fine. */
  @Test
  void plainTextOverANetworkIsRefused() {
    for (String target :
        List.of("sidecar.example:50051", NETWORK, "dns:///sidecar:50051", "127.0.0.1.example:1")) {
      Millirank.Builder builder = Millirank.builder(target).token(TOKEN);
      String message = assertThrows(IllegalArgumentException.class, builder::build).getMessage();
      assertTrue(message.contains(target) && message.contains("credentials("), message);
      assertFalse(message.contains(TOKEN), message);
    }
    Millirank.builder(NETWORK).token(TOKEN).credentials(TlsChannelCredentials.create()).build().close();
  }

  /** Nothing that is sent to a Unix socket or to loopback passes a network. */
  @Test
  void thisMachineNeedsNoTls() {
    for (String target : List.of("unix:/run/m.sock", "localhost:1", "dns:///localhost:1", "[::1]:1")) {
      Millirank.builder(target).token(TOKEN).build().close();
    }
  }

  /** A token as it is read from a file, with its line end, would fail every call: said at once. */
  @Test
  void whatNoHeaderCarriesIsRefused() {
    for (String wrong : List.of("", "s3cret\n", " s3cret", "s3crét")) {
      Millirank.Builder builder = Millirank.builder("127.0.0.1:1").token(wrong);
      String message = assertThrows(IllegalArgumentException.class, builder::build).getMessage();
      assertTrue(message.contains("line end"), message);
    }
  }
}
