package midrib.program;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.concurrent.atomic.AtomicInteger;
import midrib.client.Client;
import midrib.client.Inputs;
import midrib.client.MidribException;
import midrib.v1.Open;

/** An image in, its embedding out; a stream; an error handled by its reason. Arguments: ADDRESS BACKBONE IMAGE. */
final class Example {
  public static void main(String[] arguments) throws Exception {
    String address = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    String backbone = arguments.length > 1 ? arguments[1] : "image/classification/efficientnet-lite0";
    byte[] image = Files.readAllBytes(Path.of(arguments.length > 2 ? arguments[2] : "image.png"));

    try (Client client = new Client(address)) {
      float[][] rows = client.embedImages(backbone, image);
      System.out.printf("embedding: %d features of revision %s%n",
          rows[0].length, client.describe(backbone).getRevision().substring(0, 12));

      AtomicInteger embedded = new AtomicInteger();
      client.embedStream(
          Open.newBuilder().setBackbone(backbone).build(),
          Collections.nCopies(8, Inputs.images(image)).iterator(),
          result -> embedded.addAndGet(result.error() == null ? 1 : 0));
      System.out.printf("stream: %d embeddings%n", embedded.get());

      try {
        client.embedTexts("no/such/backbone", "a text");
      } catch (MidribException error) {
        if (!error.reason().equals("BACKBONE_NOT_FOUND")) {
          throw error;
        }
        System.out.println("refused: " + error.reason());
      }
    }
  }
}
