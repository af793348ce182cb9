// The checks that every client must pass (docs/clients.md): conformance ADDRESS RELEASE_DIRECTORY
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>

#include "midrib/client.h"
#include "midrib/tensor.h"

namespace {

using Row = std::vector<std::string>;
constexpr char kStreamed[] = "golden/embedding/tensor";

bool all_passed = true;

void Check(const std::string& name, const std::string& want, const std::function<std::string()>& call) {
  std::string got;
  try {
    got = call();
  } catch (const std::exception& error) {
    got = error.what();
  }
  all_passed = all_passed && got == want;
  if (got == want) {
    std::cout << "ok " << name << std::endl;
  } else {
    std::cout << "not ok " << name << " - got " << got << ", expected " << want << std::endl;
  }
}

Row Split(const std::string& text, char separator) {
  Row parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<Row> Rows(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<Row> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(Split(line, '\t'));
  return rows;
}

std::string Bytes(const std::string& hex) {
  std::string bytes;
  for (std::size_t at = 0; at < hex.size(); at += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16)));
  }
  return bytes;
}

std::string Hex(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  std::string hex;
  for (const unsigned char byte : bytes) {
    hex.push_back("0123456789abcdef"[byte >> 4]);
    hex.push_back("0123456789abcdef"[byte & 15]);
  }
  return hex;
}

template <typename M>
M Parse(const std::string& hex) {
  M message;
  if (!message.ParseFromString(Bytes(hex))) throw std::runtime_error("these bytes are no " + message.GetTypeName());
  return message;
}

std::string Again(const std::string& type, const std::string& recorded) {
  const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(type);
  if (descriptor == nullptr) throw std::runtime_error("no message " + type);
  const std::unique_ptr<google::protobuf::Message> message(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(descriptor)->New());
  if (!message->ParseFromString(Bytes(recorded))) throw std::runtime_error("cannot read it");
  message->DiscardUnknownFields();
  return Hex(*message);
}

std::string Joined(const google::protobuf::RepeatedField<std::int64_t>& shape) {
  std::string text;
  for (const auto size : shape) text += (text.empty() ? "" : ",") + std::to_string(size);
  return text;
}

bool Same(double one, double other) {
  return std::isnan(one) ? std::isnan(other) : one == other && std::signbit(one) == std::signbit(other);
}

// Compares a tensor's numbers with the expected ones, and writes it again from those.
std::string TensorAgain(const Row& row) {
  const auto tensor = Parse<midrib::v1::Tensor>(row[4]);
  std::string dtype = midrib::v1::DataType_Name(tensor.dtype()).substr(sizeof("DATA_TYPE_") - 1);
  for (char& letter : dtype) letter = static_cast<char>(std::tolower(letter));
  if (dtype != row[1] || Joined(tensor.shape()) != row[2]) return dtype + " of shape " + Joined(tensor.shape());
  std::vector<double> want;
  for (const auto& text : Split(row[3], ' ')) want.push_back(std::strtod(text.c_str(), nullptr));
  const auto got = midrib::Numbers(tensor);
  if (!std::equal(got.begin(), got.end(), want.begin(), want.end(), Same)) return "other numbers";
  const std::vector<std::int64_t> shape(tensor.shape().begin(), tensor.shape().end());
  if (dtype == "float32") return Hex(midrib::Floats({want.begin(), want.end()}, shape));
  if (dtype == "int64") return Hex(midrib::Integers({want.begin(), want.end()}, shape));
  return Hex(tensor);
}

std::string Describe(const midrib::Error& error) {
  std::ostringstream text;
  text << error.code() << " " << error.reason() << " " << error.field() << " ";
  if (error.retry_after()) text << std::chrono::duration<double>(*error.retry_after()).count();
  text << " " << error.what();
  return text.str();
}

std::string Refused(const midrib::Client& client, const std::string& asked) {
  try {
    client.Embed(Parse<midrib::v1::EmbedRequest>(asked));
  } catch (const midrib::Error& error) {
    return std::to_string(error.code()) + " " + error.reason();
  }
  return "accepted";
}

void Offline(const std::string& release) {
  for (const auto& row : Rows(release + "/messages.tsv")) {
    // A message without a field set has no bytes, and the row no last column.
    const std::string recorded = row.size() > 3 ? row[3] : "";
    Check("messages: " + row[0], recorded, [&] { return Again(row[1], recorded); });
  }
  for (const auto& row : Rows(release + "/tensors.tsv")) {
    Check("tensors: " + row[0], row[4], [&] { return TensorAgain(row); });
  }
  for (const auto& row : Rows(release + "/statuses.tsv")) {
    const std::string want = row[1] + " " + row[2] + " " + row[3] + " " + row[4] + " " + row[5];
    Check("statuses: " + row[0], want, [&] { return Describe(midrib::Error(Parse<google::rpc::Status>(row[6]))); });
  }
}

void Unary(const midrib::Client& client, const std::string& release) {
  for (const auto& row : Rows(release + "/embeddings.tsv")) {
    Check("embeddings: " + row[0], row[2],
          [&] { return Hex(client.Embed(Parse<midrib::v1::EmbedRequest>(row[1])).embedding()); });
  }
  for (const auto& row : Rows(release + "/gradients.tsv")) {
    Check("gradients: " + row[0], row[2],
          [&] { return Hex(client.Backward(Parse<midrib::v1::BackwardRequest>(row[1])).grad_input()); });
  }
  for (const auto& row : Rows(release + "/refusals.tsv")) {
    Check("refusals: " + row[0], row[2] + " " + row[3], [&] { return Refused(client, row[1]); });
  }
}

void Stream(const midrib::Client& client, const std::string& release) {
  std::vector<midrib::v1::Input> inputs;
  std::string want;
  for (const auto& row : Rows(release + "/embeddings.tsv")) {
    const auto request = Parse<midrib::v1::EmbedRequest>(row[1]);
    if (request.backbone() != kStreamed || request.has_options()) continue;
    inputs.push_back(request.input());
    want += row[2] + " ";
  }
  inputs.emplace_back();
  want += "INVALID_INPUT ";
  Check("stream", want, [&] {
    midrib::v1::Open open;
    open.set_backbone(kStreamed);
    std::vector<std::string> outcomes(inputs.size());
    auto at = inputs.begin();
    const auto next = [&](midrib::v1::Input* input) {
      if (at == inputs.end()) return false;
      *input = *at++;
      return true;
    };
    client.EmbedStream(open, next, [&](const midrib::StreamResult& result) {
      outcomes.at(result.index) = result.error ? result.error->reason() : Hex(result.embedding);
    });
    std::string got;
    for (const auto& outcome : outcomes) got += outcome + " ";
    return got;
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: conformance ADDRESS RELEASE_DIRECTORY\n";
    return 2;
  }
  const midrib::Client client(argv[1]);
  Offline(argv[2]);
  Unary(client, argv[2]);
  Stream(client, argv[2]);
  return all_passed ? 0 : 1;
}
