import { DataType, Tensor } from "./generated/midrib/v1/tensor.js";

/** Reads one element at a byte offset of a view; with its size in bytes. */
type Reader = { size: number; read: (view: DataView, at: number) => number };

const READERS: ReadonlyMap<DataType, Reader> = new Map([
  [DataType.DATA_TYPE_FLOAT32, { size: 4, read: (view, at) => view.getFloat32(at, true) }],
  [DataType.DATA_TYPE_FLOAT16, { size: 2, read: (view, at) => halfToNumber(view.getUint16(at, true)) }],
  [DataType.DATA_TYPE_BFLOAT16, { size: 2, read: (view, at) => bfloatToNumber(view.getUint16(at, true)) }],
  [DataType.DATA_TYPE_FLOAT64, { size: 8, read: (view, at) => view.getFloat64(at, true) }],
  [DataType.DATA_TYPE_INT8, { size: 1, read: (view, at) => view.getInt8(at) }],
  [DataType.DATA_TYPE_UINT8, { size: 1, read: (view, at) => view.getUint8(at) }],
  [DataType.DATA_TYPE_INT16, { size: 2, read: (view, at) => view.getInt16(at, true) }],
  [DataType.DATA_TYPE_INT32, { size: 4, read: (view, at) => view.getInt32(at, true) }],
  [DataType.DATA_TYPE_INT64, { size: 8, read: (view, at) => Number(view.getBigInt64(at, true)) }],
  [DataType.DATA_TYPE_BOOL, { size: 1, read: (view, at) => view.getUint8(at) }],
]);

/** A float32 tensor of these numbers, in row-major order. */
export function floats(values: ArrayLike<number>, shape: readonly number[]): Tensor {
  const data = Buffer.alloc(values.length * 4);
  for (let index = 0; index < values.length; index++) data.writeFloatLE(values[index]!, index * 4);
  return tensor(DataType.DATA_TYPE_FLOAT32, values.length, shape, data);
}

/** An int64 tensor, such as token ids, in row-major order. */
export function integers(values: ArrayLike<number>, shape: readonly number[]): Tensor {
  const data = Buffer.alloc(values.length * 8);
  for (let index = 0; index < values.length; index++) data.writeBigInt64LE(BigInt(values[index]!), index * 8);
  return tensor(DataType.DATA_TYPE_INT64, values.length, shape, data);
}

/**
 * The numbers of a tensor of any element type, in row-major order; int64 beyond 2 ** 53 is rounded.
 * Throws RangeError if the type is unknown, or the bytes are not those of the shape.
 */
export function numbers(tensor: Tensor): Float64Array {
  const reader = READERS.get(tensor.dtype);
  if (!reader) throw new RangeError(`tensor has dtype ${tensor.dtype}, which this client does not know: update it`);
  const count = Number(tensor.shape.reduce((product, size) => product * size, 1n));
  const { buffer, byteOffset, byteLength } = tensor.data;
  if (byteLength !== count * reader.size) {
    throw new RangeError(`tensor of shape [${tensor.shape}] has ${byteLength} bytes, expected ${count * reader.size}`);
  }
  const view = new DataView(buffer, byteOffset, byteLength);
  const values = Float64Array.from({ length: count }, (_, index) => reader.read(view, index * reader.size));
  return tensor.rowScales.length > 0 ? scaled(values, tensor) : values;
}

/** Multiplies the rows of an embedding that was sent as int8. */
function scaled(values: Float64Array, { shape, rowScales }: Tensor): Float64Array {
  if (shape.length !== 2 || BigInt(rowScales.length) !== shape[0]! * 4n) {
    throw new RangeError(`tensor of shape [${shape}] has ${rowScales.length} bytes of scales, expected four for each row`);
  }
  const width = Number(shape[1]);
  return values.map((value, index) => value * rowScales.readFloatLE(Math.floor(index / width) * 4));
}

function tensor(dtype: DataType, count: number, shape: readonly number[], data: Buffer): Tensor {
  const expected = shape.reduce((product, size) => product * size, 1);
  if (count !== expected) throw new RangeError(`got ${count} values, shape [${shape}] takes ${expected}`);
  return { dtype, shape: shape.map(BigInt), data, rowScales: Buffer.alloc(0) };
}

const scratch = new DataView(new ArrayBuffer(4));

function bfloatToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}
