import { ServiceError, status as Code } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "./generated/google/rpc/error_details.js";
import { Status } from "./generated/google/rpc/status.js";

/** The refusal of a call, or of one item of a stream. Branch on `reason`, such as "BACKBONE_NOT_FOUND". */
export class MidribError extends Error {
  constructor(
    message: string,
    readonly code: Code,
    readonly reason: string,
    /** The place in the request that is wrong, such as "input.tensor.shape". */
    readonly field?: string,
    /** Seconds after which the same call may succeed; undefined if waiting does not help. */
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
    this.name = "MidribError";
  }
}

/** The error that a status carries. */
export function errorFromStatus(status: Status): MidribError {
  let reason = Code[status.code] ?? "UNKNOWN";
  let field: string | undefined;
  let retryAfterSeconds: number | undefined;
  for (const { typeUrl, value } of status.details) {
    if (typeUrl.endsWith("/google.rpc.ErrorInfo")) reason = ErrorInfo.decode(value).reason;
    if (typeUrl.endsWith("/google.rpc.BadRequest")) field = BadRequest.decode(value).fieldViolations[0]?.field;
    if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
      const delay = RetryInfo.decode(value).retryDelay;
      if (delay) retryAfterSeconds = Number(delay.seconds) + delay.nanos / 1e9;
    }
  }
  return new MidribError(status.message, status.code, reason, field, retryAfterSeconds);
}

/** The error of a failed call. Its reason is the name of the code if the status has no details of Midrib. */
export function errorFromCall(error: ServiceError): MidribError {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (Buffer.isBuffer(details)) return errorFromStatus(Status.decode(details));
  return new MidribError(error.details, error.code, Code[error.code] ?? "UNKNOWN");
}
