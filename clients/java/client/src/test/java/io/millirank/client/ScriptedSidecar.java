package io.millirank.client;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.millirank.client.testing.Answer;
import io.millirank.client.testing.FakeSidecar;
import io.millirank.client.testing.Received;
import io.millirank.v1.Decision;
import io.millirank.v1.RerankResponse;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;

/** Does what a vector's {@code sidecar} says: with the first, second, ... request; the last entry repeats. */
final class ScriptedSidecar implements AutoCloseable {
  private final @Nullable FakeSidecar fake;
  private final @Nullable ServerSocket mute;
  private final String target;

  private ScriptedSidecar(@Nullable FakeSidecar fake, @Nullable ServerSocket mute, String target) {
    this.fake = fake;
    this.mute = mute;
    this.target = target;
  }

  static ScriptedSidecar start(List<JsonObject> script) throws IOException {
    script.forEach(step -> Vector.known(step, "does", "response", "decision", "status", "delay_ms"));
    switch (script.get(0).get("does").getAsString()) {
      case "refuse" -> {
        return new ScriptedSidecar(null, null, closedPort());
      }
      case "ignore" -> {
        // Connections are accepted by the kernel, and nobody ever reads from them.
        ServerSocket mute = new ServerSocket(0, 64, InetAddress.getLoopbackAddress());
        return new ScriptedSidecar(null, mute, "127.0.0.1:" + mute.getLocalPort());
      }
      default -> {
        FakeSidecar fake = FakeSidecar.start();
        AtomicInteger arrived = new AtomicInteger();
        fake.behave(request -> step(fake, script.get(Math.min(arrived.getAndIncrement(), script.size() - 1))));
        return new ScriptedSidecar(fake, null, fake.target());
      }
    }
  }

  /** A loopback target on which nothing listens. */
  static String closedPort() throws IOException {
    try (ServerSocket taken = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return "127.0.0.1:" + taken.getLocalPort();
    }
  }

  String target() {
    return target;
  }

  /** Whether a client can become ready. */
  boolean speaks() {
    return fake != null;
  }

  List<Received> received() {
    return fake == null ? List.of() : fake.received();
  }

  @Override
  public void close() throws IOException {
    if (fake != null) {
      fake.close();
    }
    if (mute != null) {
      mute.close();
    }
  }

  private static Answer step(FakeSidecar fake, JsonObject step) {
    Duration delay = step.has("delay_ms") ? Vector.duration(step.get("delay_ms")) : Duration.ZERO;
    return switch (step.get("does").getAsString()) {
      case "answer" -> {
        if (step.has("decision")) {
          fake.decide(parsed(step.get("decision"), Decision.newBuilder()));
        }
        JsonElement response = step.has("response") ? step.get("response") : new JsonObject();
        RerankResponse message = parsed(response, RerankResponse.newBuilder());
        yield Answer.of(message).after(delay);
      }
      case "status" -> Answer.of(status(step.getAsJsonObject("status"))).after(delay);
      case "hang" -> Answer.never();
      case "disconnect" -> {
        CompletableFuture.delayedExecutor(delay.toMillis(), TimeUnit.MILLISECONDS).execute(fake::stop);
        yield Answer.never();
      }
      default -> throw new IllegalArgumentException("unknown step " + step.get("does"));
    };
  }

  private static com.google.rpc.Status status(JsonObject wanted) {
    Vector.known(wanted, "code", "message", "field", "reason", "domain", "retry_after_ms");
    String message = wanted.get("message").getAsString();
    com.google.rpc.Status.Builder status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.valueOf(wanted.get("code").getAsString()).value())
            .setMessage(message);
    if (wanted.has("field")) {
      BadRequest.Builder bad = BadRequest.newBuilder();
      bad.addFieldViolationsBuilder().setField(wanted.get("field").getAsString()).setDescription(message);
      status.addDetails(Any.pack(bad.build()));
    }
    if (wanted.has("reason")) {
      String domain = wanted.has("domain") ? wanted.get("domain").getAsString() : "millirank.io";
      status.addDetails(
          Any.pack(ErrorInfo.newBuilder().setReason(wanted.get("reason").getAsString()).setDomain(domain).build()));
    }
    if (wanted.has("retry_after_ms")) {
      Duration delay = Vector.duration(wanted.get("retry_after_ms"));
      RetryInfo.Builder retry = RetryInfo.newBuilder();
      retry.getRetryDelayBuilder().setSeconds(delay.getSeconds()).setNanos(delay.getNano());
      status.addDetails(Any.pack(retry.build()));
    }
    return status.build();
  }

  @SuppressWarnings("unchecked")
  private static <M extends Message> M parsed(JsonElement json, Message.Builder builder) {
    try {
      JsonFormat.parser().merge(json.toString(), builder);
    } catch (InvalidProtocolBufferException error) {
      throw new IllegalArgumentException(error);
    }
    return (M) builder.build();
  }
}
