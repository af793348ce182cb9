// An image in, its embedding out; a stream; an error handled by its reason.
//   node example.js ADDRESS BACKBONE IMAGE
import { readFileSync } from "node:fs";
import { Client, inputOf, MidribError } from "midrib-client";

async function main(address: string, backbone: string, path: string): Promise<void> {
  const client = new Client(address);
  const image = { images: [readFileSync(path)] };

  const { rows, revision } = await client.embed(backbone, image);
  console.log(`embedding: ${rows[0]!.length} features of revision ${revision.slice(0, 12)}`);

  let embedded = 0;
  for await (const result of client.embedStream(backbone, Array(8).fill(inputOf(image)))) {
    if ("embedding" in result) embedded++;
  }
  console.log(`stream: ${embedded} embeddings`);

  try {
    await client.embed("no/such/backbone", { texts: ["a text"] });
  } catch (error) {
    if (!(error instanceof MidribError) || error.reason !== "BACKBONE_NOT_FOUND") throw error;
    console.log(`refused: ${error.reason}`);
  }
  client.close();
}

const [address = "127.0.0.1:50051", backbone = "image/classification/efficientnet-lite0", path = "image.png"] =
  process.argv.slice(2);
void main(address, backbone, path);
