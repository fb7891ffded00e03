package io.millirank.examples.search;

import com.google.protobuf.ByteString;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import io.opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest;
import io.opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse;
import io.opentelemetry.proto.collector.trace.v1.TraceServiceGrpc;
import io.opentelemetry.proto.trace.v1.Span;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;

/** Where the sidecar's spans go: a real gRPC server that implements OTLP's trace service and keeps everything. */
final class OtlpReceiver extends TraceServiceGrpc.TraceServiceImplBase implements AutoCloseable {
  private final List<Span> spans = new ArrayList<>();
  private final Server server;

  private OtlpReceiver() throws IOException {
    this.server =
        NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0))
            .addService(this)
            .build()
            .start();
  }

  static OtlpReceiver start() throws IOException {
    return new OtlpReceiver();
  }

  String endpoint() {
    return "http://127.0.0.1:" + server.getPort();
  }

  /** The spans of one trace, as soon as these names and a parent of theirs are among them. */
  synchronized List<Span> trace(String traceId, Set<String> names, Duration patience) throws InterruptedException {
    long deadline = System.nanoTime() + patience.toNanos();
    while (true) {
      List<Span> found = spans.stream().filter(span -> hex(span.getTraceId()).equals(traceId)).toList();
      Set<String> seen = found.stream().map(Span::getName).collect(Collectors.toSet());
      if (seen.containsAll(names) && seen.size() > names.size()) {
        return found;
      }
      long left = deadline - System.nanoTime();
      if (left <= 0) {
        throw new AssertionError("only these spans came: " + seen);
      }
      wait(1 + left / 1_000_000);
    }
  }

  static String hex(ByteString id) {
    return HexFormat.of().formatHex(id.toByteArray());
  }

  @Override
  public synchronized void export(
      ExportTraceServiceRequest request, StreamObserver<ExportTraceServiceResponse> exporter) {
    request.getResourceSpansList().stream()
        .flatMap(resource -> resource.getScopeSpansList().stream())
        .forEach(scope -> spans.addAll(scope.getSpansList()));
    notifyAll();
    exporter.onNext(ExportTraceServiceResponse.getDefaultInstance());
    exporter.onCompleted();
  }

  @Override
  public void close() {
    server.shutdownNow();
  }
}
