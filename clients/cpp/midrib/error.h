#pragma once

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>

#include <grpcpp/support/status.h>

#include "google/rpc/status.pb.h"

namespace midrib {

// How a call, or one item of a stream, was refused. Branch on reason(), such as "BACKBONE_NOT_FOUND", or the name of the
// code, such as "DEADLINE_EXCEEDED", if no server of Midrib answered.
class Error : public std::runtime_error {
 public:
  explicit Error(const google::rpc::Status& status);
  explicit Error(const grpc::Status& status);

  grpc::StatusCode code() const { return code_; }
  const std::string& reason() const { return reason_; }
  // The place in the request that is wrong, such as "input.tensor.shape"; empty if there is none.
  const std::string& field() const { return field_; }
  // The time after which the same call may succeed; absent if waiting does not help.
  const std::optional<std::chrono::nanoseconds>& retry_after() const { return retry_after_; }

 private:
  grpc::StatusCode code_;
  std::string reason_;
  std::string field_;
  std::optional<std::chrono::nanoseconds> retry_after_;
};

}  // namespace midrib
