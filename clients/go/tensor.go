package midrib

import (
	"encoding/binary"
	"fmt"
	"math"

	pb "midrib.example/clients/go/v1"
)

// Floats makes a float32 tensor of numbers in row-major order.
func Floats(values []float32, shape ...int64) (*pb.Tensor, error) {
	data := make([]byte, 0, 4*len(values))
	for _, value := range values {
		bits := math.Float32bits(value)
		data = append(data, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
	}
	return tensor(pb.DataType_DATA_TYPE_FLOAT32, len(values), shape, data)
}

// Integers makes an int64 tensor, such as token ids, of numbers in row-major order.
func Integers(values []int64, shape ...int64) (*pb.Tensor, error) {
	data := make([]byte, 8*len(values))
	for i, value := range values {
		binary.LittleEndian.PutUint64(data[8*i:], uint64(value))
	}
	return tensor(pb.DataType_DATA_TYPE_INT64, len(values), shape, data)
}

// Numbers reads a tensor of any element type, in row-major order; an int64 beyond 2**53 is rounded.
func Numbers(tensor *pb.Tensor) ([]float64, error) {
	size, read := reader(tensor.Dtype)
	if read == nil {
		return nil, fmt.Errorf("the tensor has type %v, which this client does not know: update it", tensor.Dtype)
	}
	count := product(tensor.Shape)
	if int64(len(tensor.Data)) != count*int64(size) {
		return nil, fmt.Errorf("the tensor of shape %v has %d bytes, expected %d",
			tensor.Shape, len(tensor.Data), count*int64(size))
	}
	numbers := make([]float64, count)
	for i := range numbers {
		numbers[i] = read(tensor.Data[i*size:])
	}
	if len(tensor.RowScales) > 0 {
		return scaled(numbers, tensor)
	}
	return numbers, nil
}

// scaled multiplies the rows of an embedding that was sent as int8.
func scaled(numbers []float64, tensor *pb.Tensor) ([]float64, error) {
	scales := tensor.RowScales
	if len(tensor.Shape) != 2 || int64(len(scales)) != 4*tensor.Shape[0] {
		return nil, fmt.Errorf("the tensor of shape %v has %d bytes of scales, expected four for each row",
			tensor.Shape, len(scales))
	}
	width := int(tensor.Shape[1])
	for i := range numbers {
		bits := binary.LittleEndian.Uint32(scales[4*(i/width):])
		numbers[i] *= float64(math.Float32frombits(bits))
	}
	return numbers, nil
}

// reader returns an element type's size in bytes, and the function that reads one element.
func reader(dtype pb.DataType) (int, func([]byte) float64) {
	little := binary.LittleEndian
	switch dtype {
	case pb.DataType_DATA_TYPE_FLOAT32:
		return 4, func(b []byte) float64 { return float64(math.Float32frombits(little.Uint32(b))) }
	case pb.DataType_DATA_TYPE_FLOAT16:
		return 2, func(b []byte) float64 { return halfToFloat(little.Uint16(b)) }
	case pb.DataType_DATA_TYPE_BFLOAT16:
		return 2, func(b []byte) float64 { return float64(math.Float32frombits(uint32(little.Uint16(b)) << 16)) }
	case pb.DataType_DATA_TYPE_FLOAT64:
		return 8, func(b []byte) float64 { return math.Float64frombits(little.Uint64(b)) }
	case pb.DataType_DATA_TYPE_INT8:
		return 1, func(b []byte) float64 { return float64(int8(b[0])) }
	case pb.DataType_DATA_TYPE_UINT8, pb.DataType_DATA_TYPE_BOOL:
		return 1, func(b []byte) float64 { return float64(b[0]) }
	case pb.DataType_DATA_TYPE_INT16:
		return 2, func(b []byte) float64 { return float64(int16(little.Uint16(b))) }
	case pb.DataType_DATA_TYPE_INT32:
		return 4, func(b []byte) float64 { return float64(int32(little.Uint32(b))) }
	case pb.DataType_DATA_TYPE_INT64:
		return 8, func(b []byte) float64 { return float64(int64(little.Uint64(b))) }
	}
	return 0, nil
}

func tensor(dtype pb.DataType, count int, shape []int64, data []byte) (*pb.Tensor, error) {
	if int64(count) != product(shape) {
		return nil, fmt.Errorf("got %d values, shape %v takes %d", count, shape, product(shape))
	}
	return &pb.Tensor{Dtype: dtype, Shape: shape, Data: data}, nil
}

func product(shape []int64) int64 {
	count := int64(1)
	for _, size := range shape {
		count *= size
	}
	return count
}

func halfToFloat(bits uint16) float64 {
	sign := 1.0
	if bits&0x8000 != 0 {
		sign = -1
	}
	exponent, fraction := int(bits>>10)&0x1f, float64(bits&0x3ff)
	switch {
	case exponent == 0:
		return math.Copysign(math.Ldexp(fraction, -24), sign)
	case exponent == 31 && fraction == 0:
		return math.Inf(int(sign))
	case exponent == 31:
		return math.NaN()
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}
