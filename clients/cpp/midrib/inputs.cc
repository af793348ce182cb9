#include "midrib/inputs.h"

#include <stdexcept>

#include "midrib/tensor.h"

namespace midrib {

v1::Input Texts(const std::vector<std::string>& texts) {
  v1::Input input;
  input.mutable_texts()->mutable_texts()->Assign(texts.begin(), texts.end());
  return input;
}

v1::Input Images(const std::vector<std::string>& encoded) {
  v1::Input input;
  input.mutable_images()->mutable_encoded()->Assign(encoded.begin(), encoded.end());
  return input;
}

Rows RowsOf(const v1::Tensor& embedding) {
  if (embedding.shape_size() != 2) {
    throw std::invalid_argument("the embedding has " + std::to_string(embedding.shape_size()) +
                                " dimensions, expected [rows, features]");
  }
  const std::vector<double> numbers = Numbers(embedding);
  const auto width = embedding.shape(1);
  Rows rows;
  for (std::int64_t row = 0; row < embedding.shape(0); ++row) {
    const auto first = numbers.begin() + row * width;
    rows.emplace_back(first, first + width);
  }
  return rows;
}

}  // namespace midrib
