package io.millirank.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.ProtoUtils;
import java.time.Duration;
import org.jspecify.annotations.Nullable;

/** gRPC status -> the caller's mistake or the sidecar's failure. The only such table. */
final class Statuses {
  private static final String ERROR_DOMAIN = "millirank.io";
  private static final Metadata.Key<com.google.rpc.Status> DETAILS =
      Metadata.Key.of(
          "grpc-status-details-bin", ProtoUtils.metadataMarshaller(com.google.rpc.Status.getDefaultInstance()));

  private Statuses() {}

  static Reply read(Status status, Metadata trailers) {
    Details details = Details.of(trailers);
    String message = status.getDescription() == null ? "no message" : status.getDescription();
    return switch (status.getCode()) {
      case INVALID_ARGUMENT -> new Reply.Mistake(new InvalidRequestException(details.field, message));
      case NOT_FOUND -> new Reply.Mistake(new RerankerNotFoundException(message));
      case FAILED_PRECONDITION -> new Reply.Mistake(new RerankerOffException(message));
      default -> {
        String code = status.getCode().name();
        Reason reason = details.reason == null ? reason(status.getCode()) : details.reason;
        yield new Reply.Failure(reason, code + ": " + message, code, details.retryAfter);
      }
    };
  }

  private static Reason reason(Status.Code code) {
    return switch (code) {
      // CANCELLED is what a call in flight gets when either end closes the connection under it.
      case UNAVAILABLE, CANCELLED -> Reason.SIDECAR_UNAVAILABLE;
      case DEADLINE_EXCEEDED -> Reason.SIDECAR_TIMEOUT;
      default -> Reason.SIDECAR_ERROR;
    };
  }

  /** What the google.rpc.Status in the trailers says, as far as this client acts on it. */
  private record Details(String field, @Nullable Reason reason, @Nullable Duration retryAfter) {
    private static final Details NONE = new Details("", null, null);

    static Details of(Metadata trailers) {
      String field = "";
      Reason reason = null;
      Duration retryAfter = null;
      try {
        com.google.rpc.Status status = trailers.get(DETAILS);
        if (status == null) {
          return NONE;
        }
        for (Any detail : status.getDetailsList()) {
          if (detail.is(BadRequest.class)) {
            BadRequest bad = detail.unpack(BadRequest.class);
            field = bad.getFieldViolationsCount() == 0 ? "" : bad.getFieldViolations(0).getField();
          } else if (detail.is(ErrorInfo.class)) {
            ErrorInfo info = detail.unpack(ErrorInfo.class);
            reason = info.getDomain().equals(ERROR_DOMAIN) ? named(info.getReason()) : null;
          } else if (detail.is(RetryInfo.class)) {
            com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
            retryAfter = Answers.duration(delay);
          }
        }
      } catch (InvalidProtocolBufferException | IllegalArgumentException stranger) {
        // Trailers of something that is not Millirank (a proxy): the status code alone has to do.
        return NONE;
      }
      return new Details(field, reason, retryAfter);
    }

    /** Null where ErrorInfo names an error that is no degradation. */
    private static @Nullable Reason named(String name) {
      for (Reason reason : Reason.values()) {
        if (reason.name().equals(name)) {
          return reason;
        }
      }
      return null;
    }
  }
}
