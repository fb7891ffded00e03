package io.millirank.client;

import static io.millirank.client.Asking.DOCUMENTS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerBuilder;
import io.grpc.ServerCredentials;
import io.grpc.ServerServiceDefinition;
import io.grpc.TlsChannelCredentials;
import io.grpc.TlsServerCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollIoHandler;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import io.millirank.client.testing.Behaviour;
import io.millirank.client.testing.FakeSidecar;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.RerankResponse;
import java.io.File;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.ServerSocket;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Connecting: when, over what, and how long it is waited for. */
class ConnectionTest {
  private static final Duration ROOMY = Duration.ofSeconds(10);

  private static Ranking<String> rerank(Millirank client) {
    return client.rerank(Request.builder("query", DOCUMENTS).budget(ROOMY).build());
  }

  /** Without any call, a listener sees the connection. */
  @Test
  void connectingStartsAtConstruction() throws IOException {
    try (ServerSocket listener = new ServerSocket(0, 8, InetAddress.getLoopbackAddress());
        Millirank client = Millirank.builder("127.0.0.1:" + listener.getLocalPort()).build()) {
      listener.setSoTimeout(5_000);
      listener.accept().close(); // throws after 5 s without a connection
      assertEquals(0, client.stats().calls());
    }
  }

  /** NOT_SERVING is waited for; SERVING ends the wait. */
  @Test
  void readyMeansReachableAndServing() throws Exception {
    AtomicBoolean serving = new AtomicBoolean();
    Server server = ServerBuilder.forPort(0).addService(health(serving)).build().start();
    try (Millirank client = Millirank.builder("localhost:" + server.getPort()).build()) {
      assertFalse(client.awaitReady(Duration.ofMillis(300)));
      CompletableFuture.delayedExecutor(200, TimeUnit.MILLISECONDS).execute(() -> serving.set(true));
      assertTrue(client.awaitReady(Duration.ofSeconds(5)));
    } finally {
      server.shutdownNow();
    }
  }

  /** Nobody listens: false, after the time that was given. */
  @Test
  void notReadyInTimeIsFalse() throws Exception {
    try (Millirank client = Millirank.builder(ScriptedSidecar.closedPort()).build()) {
      long started = System.nanoTime();
      assertFalse(client.awaitReady(Duration.ofMillis(300)));
      double waitedMs = (System.nanoTime() - started) / 1e6;
      assertTrue(200 < waitedMs && waitedMs < 2_000, waitedMs + " ms");
    }
  }

  /** A Unix socket works like host:port, over epoll, with an authority that servers accept. */
  @Test
  void aUnixSocketIsATarget(@TempDir Path folder) throws Exception {
    Path socket = folder.resolve("m.sock");
    EventLoopGroup loops = new MultiThreadIoEventLoopGroup(1, EpollIoHandler.newFactory());
    Server server =
        NettyServerBuilder.forAddress(new DomainSocketAddress(socket.toFile()))
            .channelType(EpollServerDomainSocketChannel.class)
            .bossEventLoopGroup(loops)
            .workerEventLoopGroup(loops)
            .addService(reversing())
            .build()
            .start();
    try (Millirank client = Millirank.builder("unix:" + socket).build()) {
      assertTrue(client.awaitReady(ROOMY));
      assertEquals(Outcome.RANKED, rerank(client).outcome());
    } finally {
      server.shutdownNow();
      loops.shutdownGracefully();
    }
  }

  /** With credentials the channel is TLS: a trusted certificate ranks, an untrusted one is a fallback. */
  @Test
  void credentialsMakeItTls(@TempDir Path folder) throws Exception {
    File key = folder.resolve("key.pem").toFile();
    File certificate = folder.resolve("certificate.pem").toFile();
    selfSigned(key, certificate);
    ServerCredentials own = TlsServerCredentials.create(certificate, key);
    Server server =
        NettyServerBuilder.forAddress(new InetSocketAddress("localhost", 0), own)
            .addService(reversing())
            .build()
            .start();
    String target = "localhost:" + server.getPort();
    try (Millirank trusting =
            Millirank.builder(target)
                .credentials(TlsChannelCredentials.newBuilder().trustManager(certificate).build())
                .build();
        Millirank distrusting = Millirank.builder(target).credentials(TlsChannelCredentials.create()).build()) {
      assertEquals(Outcome.RANKED, rerank(trusting).outcome());
      assertTrue(rerank(distrusting).fallback());
    } finally {
      server.shutdownNow();
    }
  }

  /** The caller's gRPC settings are in force, and come after this client's own. */
  @Test
  void ownSettingsReachTheChannel() {
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank client =
            Millirank.builder(sidecar.target())
                .configureChannel(channel -> channel.userAgent("shop/7").maxInboundMessageSize(100))
                .build()) {
      Ranking<String> ranking = rerank(client);
      Metadata.Key<String> agent = Metadata.Key.of("user-agent", Metadata.ASCII_STRING_MARSHALLER);
      assertTrue(sidecar.received().get(0).headers().get(agent).startsWith("shop/7"));
      assertEquals("RESOURCE_EXHAUSTED", ranking.degradations().get(0).detail().split(":")[0]);
    }
  }

  /** The caller's interceptors see the health check that warms the connection, the caller's own calls, and no others. */
  @Test
  void interceptorsSeeNoCallsThatNobodyMade() {
    List<String> seen = new CopyOnWriteArrayList<>();
    ClientInterceptor listing =
        new ClientInterceptor() {
          @Override
          public <Q, A> ClientCall<Q, A> interceptCall(
              MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
            seen.add(method.getBareMethodName());
            return next.newCall(method, options);
          }
        };
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank client =
            Millirank.builder(sidecar.target()).configureChannel(channel -> channel.intercept(listing)).build()) {
      rerank(client);
    }
    assertEquals(List.of("Check", "Rerank"), seen);
  }

  /** A proxy of the JVM does not stand between an application and its sidecar. */
  @Test
  void aProxyOfTheEnvironmentIsIgnored() throws IOException {
    ProxySelector before = ProxySelector.getDefault();
    ProxySelector.setDefault(ProxySelector.of(new InetSocketAddress("127.0.0.1", 1)));
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank client = Millirank.builder(sidecar.target()).build()) {
      assertEquals(Outcome.RANKED, rerank(client).outcome());
    } finally {
      ProxySelector.setDefault(before);
    }
  }

  /** Every caller gets the ranking of its own documents. */
  @Test
  void oneClientServesManyThreads() {
    try (FakeSidecar sidecar = FakeSidecar.start();
        Millirank client = Millirank.builder(sidecar.target()).build()) {
      IntStream.range(0, 100)
          .parallel()
          .forEach(
              number -> {
                var mine = List.of(number + "-a", number + "-b", number + "-c");
                var ranking = client.rerank(Request.builder("query", mine).budget(ROOMY).build());
                assertEquals(List.of(number + "-c", number + "-b", number + "-a"), ranking.documents());
              });
      assertEquals(100, client.stats().ranked());
    }
  }

  private static ServerServiceDefinition reversing() {
    return ServerServiceDefinition.builder(Methods.SERVICE)
        .addMethod(
            Methods.RERANK,
            ServerCalls.asyncUnaryCall(
                (RerankRequest request, StreamObserver<RerankResponse> caller) -> {
                  caller.onNext(Behaviour.ranked().answer(request).response());
                  caller.onCompleted();
                }))
        .build();
  }

  private static ServerServiceDefinition health(AtomicBoolean serving) {
    return ServerServiceDefinition.builder("grpc.health.v1.Health")
        .addMethod(
            Methods.HEALTH_CHECK,
            ServerCalls.asyncUnaryCall(
                (byte[] request, StreamObserver<byte[]> caller) -> {
                  caller.onNext(serving.get() ? Methods.HEALTH_SERVING : new byte[] {8, 2});
                  caller.onCompleted();
                }))
        .build();
  }

  private static void selfSigned(File key, File certificate) throws IOException, InterruptedException {
    Process openssl =
        new ProcessBuilder(
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", key.getPath(), "-out", certificate.getPath(), "-days", "1", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost")
            .redirectErrorStream(true)
            .start();
    String output = new String(openssl.getInputStream().readAllBytes());
    assertEquals(0, openssl.waitFor(), output);
  }
}
