// Calls a server by connect-web: URL BACKBONE FORM; the descriptors of the services, in base64, come on stdin.
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

const [baseUrl, backbone, form] = process.argv.slice(2);
const files = fromBinary(FileDescriptorSetSchema, Buffer.from(readFileSync(0, "utf8"), "base64"));
const registry = createFileRegistry(files);
const transport = createConnectTransport({ baseUrl, useBinaryFormat: form === "binary" });
const embeddings = createClient(registry.getService("midrib.v1.EmbeddingService"), transport);
const backbones = createClient(registry.getService("midrib.v1.BackboneService"), transport);

const input = { kind: { case: "texts", value: { texts: ["good morning"] } } };
const { embedding } = await embeddings.embed({ backbone, input });
const { data } = embedding;
const rows = [...new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength))];
const { backbones: listed } = await backbones.listBackbones({});
const error = await embeddings.embed({ backbone: "absent", input }).catch((refusal) => {
  const info = refusal.details.find(({ type }) => type === "google.rpc.ErrorInfo");
  const reader = new BinaryReader(info.value);
  reader.tag();
  return { code: refusal.code, reason: reader.string() };
});
console.log(JSON.stringify({ rows, names: listed.map(({ name }) => name), error }));
