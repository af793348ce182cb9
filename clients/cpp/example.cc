// An image in, its embedding out; a stream; an error handled by its reason.
//   example ADDRESS BACKBONE IMAGE
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "midrib/client.h"
#include "midrib/inputs.h"

int main(int argc, char** argv) {
  const std::string address = argc > 1 ? argv[1] : "127.0.0.1:50051";
  const std::string backbone = argc > 2 ? argv[2] : "image/classification/efficientnet-lite0";
  std::ifstream file(argc > 3 ? argv[3] : "image.png", std::ios::binary);
  const std::string image((std::istreambuf_iterator<char>(file)), {});

  const midrib::Client client(address);
  const midrib::Rows rows = client.Embed(backbone, midrib::Images({image}));
  std::cout << "embedding: " << rows[0].size() << " features of revision "
            << client.Describe(backbone).revision().substr(0, 12) << "\n";

  midrib::v1::Open open;
  open.set_backbone(backbone);
  int left = 8;
  int embedded = 0;
  const auto next = [&](midrib::v1::Input* input) {
    *input = midrib::Images({image});
    return left-- > 0;
  };
  client.EmbedStream(open, next, [&](const midrib::StreamResult& result) { embedded += !result.error; });
  std::cout << "stream: " << embedded << " embeddings\n";

  try {
    client.Embed("no/such/backbone", midrib::Texts({"a text"}));
  } catch (const midrib::Error& error) {
    if (error.reason() != "BACKBONE_NOT_FOUND") throw;
    std::cout << "refused: " << error.reason() << "\n";
  }
}
