import { EmbedResponse, Input } from "./generated/midrib/v1/embedding.js";
import { Tensor } from "./generated/midrib/v1/tensor.js";
import { numbers } from "./tensor.js";

/** The input: texts, encoded images, or a tensor as the backbone takes it. */
export type PlainInput = { texts: readonly string[] } | { images: readonly Uint8Array[] } | { tensor: Tensor };

/** One row of features for each input, and the revision of the backbone that computed them. */
export interface Embedding {
  rows: Float32Array[];
  revision: string;
}

/** The message of an input. */
export function inputOf(input: PlainInput): Input {
  if ("texts" in input) {
    if (typeof input.texts === "string") throw new TypeError("texts is a string, expected an array: pass [text]");
    return { kind: { $case: "texts", value: { texts: [...input.texts] } } };
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
  const width = Number(embedding.shape[1]);
  const count = Number(embedding.shape[0]);
  const rows = Array.from({ length: count }, (_, row) => values.subarray(row * width, (row + 1) * width));
  return { rows, revision };
}
