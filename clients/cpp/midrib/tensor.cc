#include "midrib/tensor.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace midrib {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are little-endian, and copied as they are");

std::int64_t Product(const google::protobuf::RepeatedField<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

template <typename T>
v1::Tensor Encode(v1::DataType dtype, const std::vector<T>& values, const std::vector<std::int64_t>& shape) {
  v1::Tensor tensor;
  tensor.set_dtype(dtype);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  if (static_cast<std::int64_t>(values.size()) != Product(tensor.shape())) {
    throw std::invalid_argument("got " + std::to_string(values.size()) + " values, the shape takes " +
                                std::to_string(Product(tensor.shape())));
  }
  tensor.set_data(values.data(), values.size() * sizeof(T));
  return tensor;
}

template <typename T>
T Load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

double HalfToDouble(std::uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  if (exponent < 31) return sign * std::ldexp(1024 + fraction, exponent - 25);
  return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
}

double BfloatToDouble(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  return Load<float>(reinterpret_cast<const char*>(&wide));
}

// An element type's size in bytes, and the function that reads one element.
struct Reader {
  std::size_t size;
  double (*read)(const char* at);
};

template <typename T>
constexpr Reader Plain() {
  return {sizeof(T), [](const char* at) { return static_cast<double>(Load<T>(at)); }};
}

Reader ReaderOf(v1::DataType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FLOAT32: return Plain<float>();
    case v1::DATA_TYPE_FLOAT16: return {2, [](const char* at) { return HalfToDouble(Load<std::uint16_t>(at)); }};
    case v1::DATA_TYPE_BFLOAT16: return {2, [](const char* at) { return BfloatToDouble(Load<std::uint16_t>(at)); }};
    case v1::DATA_TYPE_FLOAT64: return Plain<double>();
    case v1::DATA_TYPE_INT8: return Plain<std::int8_t>();
    case v1::DATA_TYPE_UINT8: return Plain<std::uint8_t>();
    case v1::DATA_TYPE_INT16: return Plain<std::int16_t>();
    case v1::DATA_TYPE_INT32: return Plain<std::int32_t>();
    case v1::DATA_TYPE_INT64: return Plain<std::int64_t>();
    case v1::DATA_TYPE_BOOL: return Plain<std::uint8_t>();
    default: break;
  }
  throw std::invalid_argument("the tensor has type " + std::to_string(dtype) +
                              ", which this client does not know: update it");
}

// Multiplies the rows of an embedding that was sent as int8.
void Scale(const v1::Tensor& tensor, std::vector<double>* numbers) {
  const std::string& scales = tensor.row_scales();
  if (tensor.shape_size() != 2 || scales.size() != static_cast<std::size_t>(tensor.shape(0)) * sizeof(float)) {
    throw std::invalid_argument("the tensor has " + std::to_string(scales.size()) +
                                " bytes of scales, expected four for each row");
  }
  const std::size_t width = tensor.shape(1);
  for (std::size_t at = 0; at < numbers->size(); at++) {
    (*numbers)[at] *= Load<float>(scales.data() + at / width * sizeof(float));
  }
}

}  // namespace

v1::Tensor Floats(const std::vector<float>& values, const std::vector<std::int64_t>& shape) {
  return Encode(v1::DATA_TYPE_FLOAT32, values, shape);
}

v1::Tensor Integers(const std::vector<std::int64_t>& values, const std::vector<std::int64_t>& shape) {
  return Encode(v1::DATA_TYPE_INT64, values, shape);
}

std::vector<double> Numbers(const v1::Tensor& tensor) {
  const Reader reader = ReaderOf(tensor.dtype());
  const std::int64_t count = Product(tensor.shape());
  const std::string& data = tensor.data();
  if (count < 0 || data.size() != static_cast<std::size_t>(count) * reader.size) {
    throw std::invalid_argument("the tensor has " + std::to_string(data.size()) + " bytes, its shape takes " +
                                std::to_string(count * static_cast<std::int64_t>(reader.size)));
  }
  std::vector<double> numbers;
  numbers.reserve(count);
  for (std::size_t at = 0; at < data.size(); at += reader.size) numbers.push_back(reader.read(data.data() + at));
  if (!tensor.row_scales().empty()) Scale(tensor, &numbers);
  return numbers;
}

}  // namespace midrib
