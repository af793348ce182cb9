import { EmbedResponse, Input } from "./generated/midrib/v1/embedding.js";
import { Tensor } from "./generated/midrib/v1/tensor.js";
import { type Embedding, rowsOf, textList } from "./shared.js";
import { numbers } from "./tensor.js";

/** The input: texts, encoded images, or a tensor as the backbone takes it. */
export type PlainInput = { texts: readonly string[] } | { images: readonly Uint8Array[] } | { tensor: Tensor };

/** The message of an input. */
export function inputOf(input: PlainInput): Input {
  if ("texts" in input) {
    return { kind: { $case: "texts", value: { texts: textList(input.texts) } } };
  }
  if ("images" in input) {
    const encoded = input.images.map((image) => Buffer.from(image));
    return { kind: { $case: "images", value: { encoded } } };
  }
  return { kind: { $case: "tensor", value: input.tensor } };
}

/** The rows of a response. Throws RangeError if its embedding has not the shape [rows, features]. */
export function embeddingOf({ embedding, revision }: EmbedResponse): Embedding {
  if (embedding?.shape.length !== 2) {
    throw new RangeError(`the embedding has shape [${embedding?.shape}], expected [rows, features]`);
  }
  const values = Float32Array.from(numbers(embedding));
  const [count, width] = embedding.shape.map(Number);
  return { rows: rowsOf(values, count!, width!), revision };
}
