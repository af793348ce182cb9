#pragma once

#include <cstdint>
#include <vector>

#include "midrib/v1/tensor.pb.h"

namespace midrib {

// A float32 tensor of values in row-major order. Throws std::invalid_argument where the shape takes another count.
v1::Tensor Floats(const std::vector<float>& values, const std::vector<std::int64_t>& shape);

// An int64 tensor, such as token ids, of values in row-major order. Throws as Floats does.
v1::Tensor Integers(const std::vector<std::int64_t>& values, const std::vector<std::int64_t>& shape);

// The numbers of a tensor of any element type, in row-major order; an int64 beyond 2^53 is rounded.
// Throws std::invalid_argument where the type is unknown, or the bytes are not those of the shape.
std::vector<double> Numbers(const v1::Tensor& tensor);

}  // namespace midrib
