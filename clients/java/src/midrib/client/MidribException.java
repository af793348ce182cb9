package midrib.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import midrib.rpc.BadRequest;
import midrib.rpc.ErrorInfo;
import midrib.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Optional;

/** How a call, or one item of a stream, was refused. Branch on {@link #reason}, such as "BACKBONE_NOT_FOUND". */
public final class MidribException extends RuntimeException {
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final Status.Code code;
  private String reason;
  private String field = "";
  private Duration retryAfter;

  private MidribException(int code, String message, Throwable cause) {
    super(message, cause);
    this.code = Status.fromCodeValue(code).getCode();
    this.reason = this.code.name();
  }

  /** The error that a status carries. */
  public static MidribException of(midrib.rpc.Status status) {
    return of(status, null);
  }

  /** The error of a failed call. Its reason is the name of the code if the status has no details of Midrib. */
  public static MidribException of(StatusRuntimeException error) {
    byte[] details = error.getTrailers() == null ? null : error.getTrailers().get(DETAILS);
    Status status = error.getStatus();
    try {
      if (details != null) {
        return of(midrib.rpc.Status.parseFrom(details), error);
      }
    } catch (InvalidProtocolBufferException broken) {
      error.addSuppressed(broken);
    }
    return new MidribException(status.getCode().value(), status.getDescription(), error);
  }

  private static MidribException of(midrib.rpc.Status status, Throwable cause) {
    MidribException error = new MidribException(status.getCode(), status.getMessage(), cause);
    for (Any detail : status.getDetailsList()) {
      try {
        error.read(detail);
      } catch (InvalidProtocolBufferException broken) {
        error.addSuppressed(broken);
      }
    }
    return error;
  }

  private void read(Any detail) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      reason = detail.unpack(ErrorInfo.class).getReason();
    } else if (detail.is(RetryInfo.class)) {
      com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
      retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
    } else if (detail.is(BadRequest.class)) {
      BadRequest request = detail.unpack(BadRequest.class);
      field = request.getFieldViolationsCount() == 0 ? "" : request.getFieldViolations(0).getField();
    }
  }

  public Status.Code code() {
    return code;
  }

  public String reason() {
    return reason;
  }

  /** The place in the request that is wrong, such as "input.tensor.shape"; empty if there is none. */
  public String field() {
    return field;
  }

  /** The time after which the same call may succeed; empty if waiting does not help. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }
}
