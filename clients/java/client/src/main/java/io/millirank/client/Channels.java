package io.millirank.client;

import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.epoll.Epoll;
import io.grpc.stub.MetadataUtils;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** How this client connects: target, defaults, service config. */
final class Channels {
  private static final Pattern HOST_PORT = Pattern.compile("(\\[[0-9a-fA-F:.%\\w]+]|[^:/\\s\\[\\]]+):(\\d{1,5})");
  // Nothing that is sent there passes a network.
  private static final Pattern THIS_MACHINE =
      Pattern.compile("unix:.*|(dns:///)?(localhost|127(\\.\\d{1,3}){3}|\\[::1]):\\d{1,5}");
  private static final Pattern TOKEN = Pattern.compile("[\\x21-\\x7e]([\\x20-\\x7e]*[\\x21-\\x7e])?");
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final int CONNECT_TIMEOUT_MS = 1000;
  private static final int MAX_INBOUND_BYTES = 16 << 20;
  // A request above this is not kept for the second attempt; gRPC's own 1 MiB is less than 1,000 long documents.
  private static final long RETRY_BUFFER_BYTES = 4L << 20;

  // One more attempt, and only where the first one did not reach a sidecar (it is being restarted).
  private static final Map<String, ?> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name", List.of(Map.of("service", Methods.SERVICE)),
                  "retryPolicy",
                      Map.of(
                          "maxAttempts", 2.0,
                          "initialBackoff", "0.005s",
                          "maxBackoff", "0.02s",
                          "backoffMultiplier", 2.0,
                          "retryableStatusCodes", List.of("UNAVAILABLE")))));

  private Channels() {}

  /**
   * A channel to {@code target}: {@code host:port}, {@code unix:/path}, or any URI that gRPC resolves, such as {@code
   * dns:///host:port}.
   *
   * @param customise gets the builder last, so that the caller's own settings win
   * @throws IllegalArgumentException where the target is none of these
   * @throws UnsupportedOperationException for a Unix socket where this platform has no epoll
   */
  static ManagedChannel open(
      String target, ChannelCredentials credentials, Executor executor, Consumer<ManagedChannelBuilder<?>> customise) {
    ManagedChannelBuilder<?> builder = builder(target, credentials);
    builder
        .executor(executor)
        .defaultServiceConfig(SERVICE_CONFIG)
        .disableServiceConfigLookUp()
        .enableRetry()
        .perRpcBufferLimit(RETRY_BUFFER_BYTES)
        // Setting a keepalive makes the kernel give up on a peer that vanished without a word (TCP user timeout). Pings
        // go out only while calls run, so that no server takes them for abuse.
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveTimeout(5, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(false)
        .maxInboundMessageSize(MAX_INBOUND_BYTES)
        // The sidecar is next door; a proxy of the environment is not meant for it.
        .proxyDetector(address -> null);
    customise.accept(builder);
    return builder.build();
  }

  /**
   * Sends the token with every call.
   *
   * @throws IllegalArgumentException where it can't be sent, or would go over a network in plain text
   */
  static ClientInterceptor bearer(String token, String target, ChannelCredentials credentials) {
    if (!TOKEN.matcher(token).matches()) {
      throw new IllegalArgumentException(
          "the token has to be printable ASCII without white space around it; did a line end come along?");
    }
    if (credentials instanceof InsecureChannelCredentials && !THIS_MACHINE.matcher(target).matches()) {
      throw new IllegalArgumentException(
          "the token would go to " + target + " in plain text; pass credentials(TlsChannelCredentials.create()), or a"
              + " target on this machine ('unix:/path', loopback)");
    }
    Metadata headers = new Metadata();
    headers.put(AUTHORIZATION, "Bearer " + token);
    return MetadataUtils.newAttachHeadersInterceptor(headers);
  }

  /** {@code server.address} of the target, for spans. */
  static String serverAddress(String target) {
    Matcher match = HOST_PORT.matcher(target);
    return match.matches() ? match.group(1).replaceAll("[\\[\\]]", "") : target;
  }

  /** {@code server.port} of the target, for spans; 0 where it has none. */
  static int serverPort(String target) {
    Matcher match = HOST_PORT.matcher(target);
    return match.matches() ? Integer.parseInt(match.group(2)) : 0;
  }

  private static ManagedChannelBuilder<?> builder(String target, ChannelCredentials credentials) {
    if (target.startsWith("unix:")) {
      if (!Epoll.isAvailable()) {
        throw new UnsupportedOperationException(
            "a Unix socket needs Linux with epoll, which is not available here; pass 'host:port'",
            Epoll.unavailabilityCause());
      }
      NettyChannelBuilder builder = (NettyChannelBuilder) Grpc.newChannelBuilder(target, credentials);
      return builder
          .overrideAuthority("localhost") // a path is no authority that servers accept
          .withOption(ChannelOption.SO_KEEPALIVE, null); // no such thing here: Netty would log a warning each time
    }
    Matcher match = HOST_PORT.matcher(target);
    boolean hostPort = match.matches() && isPort(Integer.parseInt(match.group(2)));
    if (!hostPort && !target.matches("[a-z][a-z0-9+.-]*:///.+")) {
      throw new IllegalArgumentException(
          "target '" + target + "' has no valid port or looks like a URL; pass 'host:port' or 'unix:/path'"
              + " (TLS is credentials())");
    }
    return NettyChannelBuilder.forTarget(target, credentials)
        .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_TIMEOUT_MS);
  }

  private static boolean isPort(int number) {
    return number > 0 && number < 1 << 16;
  }
}
