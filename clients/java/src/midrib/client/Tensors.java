package midrib.client;

import com.google.protobuf.ByteString;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.stream.LongStream;
import midrib.v1.DataType;
import midrib.v1.Tensor;

/** Arrays to tensors and back. */
public final class Tensors {
  private Tensors() {}

  /** A float32 tensor of values in row-major order. */
  public static Tensor floats(float[] values, long... shape) {
    ByteBuffer data = buffer(values.length * Float.BYTES);
    for (float value : values) {
      data.putFloat(value);
    }
    return tensor(DataType.DATA_TYPE_FLOAT32, values.length, data, shape);
  }

  /** An int64 tensor, such as token ids, of values in row-major order. */
  public static Tensor integers(long[] values, long... shape) {
    ByteBuffer data = buffer(values.length * Long.BYTES);
    for (long value : values) {
      data.putLong(value);
    }
    return tensor(DataType.DATA_TYPE_INT64, values.length, data, shape);
  }

  /**
   * The numbers of a tensor of any element type, in row-major order; a long beyond 2^53 is rounded.
   *
   * @throws IllegalArgumentException if the type is unknown, or the bytes are not those of the shape
   */
  public static double[] numbers(Tensor tensor) {
    int size = size(tensor.getDtype());
    long count = product(tensor.getShapeList());
    if (tensor.getData().size() != count * size) {
      throw new IllegalArgumentException(
          "the tensor of shape " + tensor.getShapeList() + " has " + tensor.getData().size()
              + " bytes, expected " + count * size);
    }
    ByteBuffer data = tensor.getData().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    double[] numbers = new double[(int) count];
    for (int index = 0; index < numbers.length; index++) {
      numbers[index] = read(tensor.getDtype(), data);
    }
    if (!tensor.getRowScales().isEmpty()) {
      scale(tensor, numbers);
    }
    return numbers;
  }

  /**
   * The rows of an embedding.
   *
   * @throws IllegalArgumentException if its shape is not [rows, features]
   */
  public static float[][] rows(Tensor embedding) {
    if (embedding.getShapeCount() != 2) {
      throw new IllegalArgumentException(
          "the embedding has shape " + embedding.getShapeList() + ", expected [rows, features]");
    }
    double[] numbers = numbers(embedding);
    float[][] rows = new float[(int) embedding.getShape(0)][(int) embedding.getShape(1)];
    for (int index = 0; index < numbers.length; index++) {
      rows[index / rows[0].length][index % rows[0].length] = (float) numbers[index];
    }
    return rows;
  }

  /** Multiplies the rows of an embedding that was sent as int8. */
  private static void scale(Tensor tensor, double[] numbers) {
    if (tensor.getShapeCount() != 2 || tensor.getRowScales().size() != tensor.getShape(0) * Float.BYTES) {
      throw new IllegalArgumentException(
          "the tensor of shape " + tensor.getShapeList() + " has " + tensor.getRowScales().size()
              + " bytes of scales, expected four for each row");
    }
    ByteBuffer scales = tensor.getRowScales().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    int width = (int) tensor.getShape(1);
    for (int index = 0; index < numbers.length; index++) {
      numbers[index] *= scales.getFloat(index / width * Float.BYTES);
    }
  }

  private static int size(DataType dtype) {
    switch (dtype) {
      case DATA_TYPE_FLOAT64: case DATA_TYPE_INT64: return 8;
      case DATA_TYPE_FLOAT32: case DATA_TYPE_INT32: return 4;
      case DATA_TYPE_FLOAT16: case DATA_TYPE_BFLOAT16: case DATA_TYPE_INT16: return 2;
      case DATA_TYPE_INT8: case DATA_TYPE_UINT8: case DATA_TYPE_BOOL: return 1;
      default:
        throw new IllegalArgumentException("the tensor has type " + dtype + ", which this client does not know: update it");
    }
  }

  private static double read(DataType dtype, ByteBuffer data) {
    switch (dtype) {
      case DATA_TYPE_FLOAT32: return data.getFloat();
      case DATA_TYPE_FLOAT16: return halfToDouble(data.getShort());
      case DATA_TYPE_BFLOAT16: return Float.intBitsToFloat(data.getShort() << 16);
      case DATA_TYPE_FLOAT64: return data.getDouble();
      case DATA_TYPE_INT16: return data.getShort();
      case DATA_TYPE_INT32: return data.getInt();
      case DATA_TYPE_INT64: return data.getLong();
      case DATA_TYPE_INT8: return data.get();
      default: return data.get() & 0xff;
    }
  }

  private static double halfToDouble(short bits) {
    double sign = bits < 0 ? -1 : 1;
    int exponent = (bits >> 10) & 0x1f;
    int fraction = bits & 0x3ff;
    if (exponent == 0) {
      return sign * Math.scalb((double) fraction, -24);
    }
    if (exponent == 31) {
      return fraction == 0 ? sign * Double.POSITIVE_INFINITY : Double.NaN;
    }
    return sign * Math.scalb(1024.0 + fraction, exponent - 25);
  }

  private static ByteBuffer buffer(int bytes) {
    return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static Tensor tensor(DataType dtype, int count, ByteBuffer data, long... shape) {
    List<Long> sizes = LongStream.of(shape).boxed().toList();
    if (count != product(sizes)) {
      throw new IllegalArgumentException("got " + count + " values, shape " + sizes + " takes " + product(sizes));
    }
    return Tensor.newBuilder()
        .setDtype(dtype)
        .addAllShape(sizes)
        .setData(ByteString.copyFrom(data.flip()))
        .build();
  }

  private static long product(List<Long> shape) {
    return shape.stream().reduce(1L, Math::multiplyExact);
  }
}
