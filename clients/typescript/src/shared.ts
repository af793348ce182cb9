/** What the client for Node and the client for browsers share. It imports nothing, because their messages differ. */

/** One row of features for each input, and the revision of the backbone that computed them. */
export interface Embedding {
  rows: Float32Array[];
  revision: string;
}

/** A copy of the texts. Throws TypeError for one string, whose characters would become texts. */
export function textList(texts: readonly string[]): string[] {
  if (typeof texts === "string") throw new TypeError("texts is a string, expected an array: pass [text]");
  return [...texts];
}

/** The rows of `count * width` values, as views of them. */
export function rowsOf(values: Float32Array, count: number, width: number): Float32Array[] {
  return Array.from({ length: count }, (_, row) => values.subarray(row * width, (row + 1) * width));
}
