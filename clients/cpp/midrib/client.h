#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <grpcpp/grpcpp.h>

#include "midrib/error.h"
#include "midrib/inputs.h"
#include "midrib/v1/backbone.grpc.pb.h"
#include "midrib/v1/embedding.grpc.pb.h"

namespace midrib {

// The outcome of one input of a stream: its place among the inputs, and an embedding or that input's error.
struct StreamResult {
  std::uint64_t index = 0;
  v1::Tensor embedding;
  std::optional<Error> error;
};

// Talks to one Midrib server; may be used by many threads. Every method throws Error.
class Client {
 public:
  using NextInput = std::function<bool(v1::Input*)>;
  using OnResult = std::function<void(StreamResult)>;

  // address: "host:port".  timeout: of a unary call.
  explicit Client(const std::string& address,
                  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials(),
                  std::chrono::milliseconds timeout = std::chrono::seconds(30));

  // The server's description of a backbone.
  v1::Backbone Describe(const std::string& name) const;

  // Embeds one batch.
  v1::EmbedResponse Embed(const v1::EmbedRequest& request) const;

  // Embeds one batch of texts or images (see inputs.h): one row of features for each.
  Rows Embed(const std::string& backbone, const v1::Input& input) const;

  // The gradient of an input, given the gradient of its embedding.
  v1::BackwardResponse Backward(const v1::BackwardRequest& request) const;

  // Embeds inputs until `next`, called on a separate thread, returns false; calls `on_result` on this thread with
  // every result as soon as it is ready, not in order. An exception of `on_result` ends the stream. `next` must not
  // throw.
  // A server that drains answers the inputs that it has read, and then this throws UNAVAILABLE: send the rest again.
  void EmbedStream(const v1::Open& open, const NextInput& next, const OnResult& on_result) const;

 private:
  std::chrono::milliseconds timeout_;
  std::unique_ptr<v1::BackboneService::Stub> backbones_;
  std::unique_ptr<v1::EmbeddingService::Stub> embeddings_;
};

}  // namespace midrib
