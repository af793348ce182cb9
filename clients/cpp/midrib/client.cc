#include "midrib/client.h"

#include <thread>
#include <utility>

namespace midrib {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;

using Stream = grpc::ClientReaderWriter<v1::EmbedStreamRequest, v1::EmbedStreamResponse>;

void Check(const grpc::Status& status) {
  if (!status.ok()) throw Error(status);
}

// Feeds a stream as fast as the server reads it; a failed write means that the reader will see why.
void Send(Stream* stream, const v1::Open& open, const Client::NextInput& next) {
  v1::EmbedStreamRequest request;
  *request.mutable_open() = open;
  std::uint64_t id = 0;
  bool more = stream->Write(request);
  while (more && next(request.mutable_item()->mutable_input())) {
    request.mutable_item()->set_id(id++);
    more = stream->Write(request);
    request.Clear();
  }
  stream->WritesDone();
}

StreamResult ResultOf(v1::Result* result) {
  StreamResult outcome;
  outcome.index = result->id();
  if (result->has_embedding()) {
    outcome.embedding = std::move(*result->mutable_embedding());
  } else {
    outcome.error = Error(result->error());
  }
  return outcome;
}

// Cancels a call and joins its writer, however its reader ends.
class Writer {
 public:
  Writer(grpc::ClientContext* context, std::thread thread) : context_(context), thread_(std::move(thread)) {}
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    context_->TryCancel();
    thread_.join();
  }

 private:
  grpc::ClientContext* context_;
  std::thread thread_;
};

}  // namespace

Client::Client(const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials,
               std::chrono::milliseconds timeout)
    : timeout_(timeout) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  const auto channel = grpc::CreateCustomChannel(address, credentials, arguments);
  backbones_ = v1::BackboneService::NewStub(channel);
  embeddings_ = v1::EmbeddingService::NewStub(channel);
}

v1::Backbone Client::Describe(const std::string& name) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout_);
  v1::GetBackboneRequest request;
  request.set_name(name);
  v1::GetBackboneResponse response;
  Check(backbones_->GetBackbone(&context, request, &response));
  return std::move(*response.mutable_backbone());
}

v1::EmbedResponse Client::Embed(const v1::EmbedRequest& request) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout_);
  v1::EmbedResponse response;
  Check(embeddings_->Embed(&context, request, &response));
  return response;
}

Rows Client::Embed(const std::string& backbone, const v1::Input& input) const {
  v1::EmbedRequest request;
  request.set_backbone(backbone);
  *request.mutable_input() = input;
  return RowsOf(Embed(request).embedding());
}

v1::BackwardResponse Client::Backward(const v1::BackwardRequest& request) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout_);
  v1::BackwardResponse response;
  Check(embeddings_->Backward(&context, request, &response));
  return response;
}

void Client::EmbedStream(const v1::Open& open, const NextInput& next, const OnResult& on_result) const {
  grpc::ClientContext context;
  const auto stream = embeddings_->EmbedStream(&context);
  const Writer writer(&context, std::thread(Send, stream.get(), open, next));
  v1::EmbedStreamResponse response;
  std::optional<Error> goodbye;
  while (stream->Read(&response)) {
    if (response.has_result()) on_result(ResultOf(response.mutable_result()));
    if (response.has_go_away()) goodbye = Error(grpc::Status(grpc::UNAVAILABLE, response.go_away().reason()));
  }
  Check(stream->Finish());
  if (goodbye) throw *goodbye;
}

}  // namespace midrib
