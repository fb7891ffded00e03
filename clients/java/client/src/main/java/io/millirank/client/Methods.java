package io.millirank.client;

import com.google.protobuf.Message;
import io.grpc.MethodDescriptor;
import io.grpc.protobuf.ProtoUtils;
import io.millirank.v1.ExplainRouteRequest;
import io.millirank.v1.ExplainRouteResponse;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.RerankResponse;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;

/** The RPCs that this client calls. */
public final class Methods {
  /** The service's full name. */
  public static final String SERVICE = "millirank.v1.RerankService";

  /** Orders the candidates. */
  public static final MethodDescriptor<RerankRequest, RerankResponse> RERANK =
      unary("Rerank", RerankRequest.getDefaultInstance(), RerankResponse.getDefaultInstance());

  /** Says what {@link #RERANK} would decide. */
  public static final MethodDescriptor<ExplainRouteRequest, ExplainRouteResponse> EXPLAIN_ROUTE =
      unary("ExplainRoute", ExplainRouteRequest.getDefaultInstance(), ExplainRouteResponse.getDefaultInstance());

  /**
   * grpc.health.v1 in bytes, so that the client needs no further dependency: the request for the whole server is
   * empty, the response is {@link #HEALTH_SERVING} or something else.
   */
  static final MethodDescriptor<byte[], byte[]> HEALTH_CHECK =
      MethodDescriptor.newBuilder(Bytes.INSTANCE, Bytes.INSTANCE)
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("grpc.health.v1.Health/Check")
          .build();

  static final byte[] HEALTH_SERVING = {8, 1};

  private Methods() {}

  private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> unary(
      String name, Q request, A response) {
    return MethodDescriptor.newBuilder(ProtoUtils.marshaller(request), ProtoUtils.marshaller(response))
        .setType(MethodDescriptor.MethodType.UNARY)
        .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, name))
        .build();
  }

  private enum Bytes implements MethodDescriptor.Marshaller<byte[]> {
    INSTANCE;

    @Override
    public InputStream stream(byte[] value) {
      return new ByteArrayInputStream(value);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }
}
