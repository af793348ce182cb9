#include "midrib/error.h"

#include <array>

#include "google/rpc/error_details.pb.h"

namespace midrib {
namespace {

// The names of the codes in google.rpc.Code.
constexpr std::array kCodeNames = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};

const char* CodeName(int code) {
  return code >= 0 && static_cast<std::size_t>(code) < kCodeNames.size() ? kCodeNames[code] : "UNKNOWN";
}

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details()) || details.code() == 0) {
    details.set_code(status.error_code());
    details.set_message(status.error_message());
  }
  return details;
}

}  // namespace

Error::Error(const google::rpc::Status& status)
    : std::runtime_error(status.message()),
      code_(static_cast<grpc::StatusCode>(status.code())),
      reason_(CodeName(status.code())) {
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  google::rpc::BadRequest request;
  for (const auto& detail : status.details()) {
    if (detail.UnpackTo(&info)) reason_ = info.reason();
    if (detail.UnpackTo(&retry)) {
      retry_after_ = std::chrono::seconds(retry.retry_delay().seconds()) +
                     std::chrono::nanoseconds(retry.retry_delay().nanos());
    }
    if (detail.UnpackTo(&request) && request.field_violations_size() > 0) {
      field_ = request.field_violations(0).field();
    }
  }
}

Error::Error(const grpc::Status& status) : Error(Details(status)) {}

}  // namespace midrib
