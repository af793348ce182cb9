#pragma once

#include <string>
#include <vector>

#include "midrib/v1/embedding.pb.h"
#include "midrib/v1/tensor.pb.h"

namespace midrib {

// One row of features for each input.
using Rows = std::vector<std::vector<float>>;

// An input of texts, for a request or a stream.
v1::Input Texts(const std::vector<std::string>& texts);

// An input of encoded images, such as the bytes of PNG files.
v1::Input Images(const std::vector<std::string>& encoded);

// The rows of an embedding. Throws std::invalid_argument if its shape is not [rows, features].
Rows RowsOf(const v1::Tensor& embedding);

}  // namespace midrib
