package midrib.client;

import midrib.v1.Result;
import midrib.v1.Tensor;

/** The outcome of one input of a stream: its place among the inputs, and an embedding or its error; one is null. */
public record StreamResult(long index, Tensor embedding, MidribException error) {
  static StreamResult of(Result result) {
    return result.hasEmbedding()
        ? new StreamResult(result.getId(), result.getEmbedding(), null)
        : new StreamResult(result.getId(), null, MidribException.of(result.getError()));
  }
}
