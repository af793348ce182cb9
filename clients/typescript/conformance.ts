// The checks that every client must pass (docs/clients.md): node conformance.js ADDRESS RELEASE_DIRECTORY
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Client, DataType, errorFromStatus, floats, integers, MidribError, numbers, Tensor } from "midrib-client";
import { Status } from "midrib-client/messages/google/rpc/status";
import * as backbone from "midrib-client/messages/midrib/v1/backbone";
import * as embedding from "midrib-client/messages/midrib/v1/embedding";
import * as tensor from "midrib-client/messages/midrib/v1/tensor";

interface Codec {
  decode(bytes: Uint8Array): unknown;
  encode(message: unknown): { finish(): Uint8Array };
}

const CODECS = { ...backbone, ...embedding, ...tensor } as unknown as Record<string, Codec>;
const STREAMED = "golden/embedding/tensor";
let failed = 0;

async function check(name: string, want: string, got: () => string | Promise<string>): Promise<void> {
  const found = await Promise.resolve().then(got).catch((error) => String(error));
  if (found !== want) failed++;
  console.log(found === want ? `ok ${name}` : `not ok ${name} - got ${found}, expected ${want}`);
}

function* rows(release: string, file: string): Generator<string[]> {
  for (const line of readFileSync(join(release, file), "utf8").split("\n")) if (line) yield line.split("\t");
}

const bytes = (recorded: string): Buffer => Buffer.from(recorded, "hex");
const hex = (message?: Tensor): string => Buffer.from(Tensor.encode(message!).finish()).toString("hex");

function again(type: string, recorded: string): string {
  const codec = CODECS[type.split(".").pop()!]!; // decode drops what it does not know
  return Buffer.from(codec.encode(codec.decode(bytes(recorded))).finish()).toString("hex");
}

function readTensor(recorded: string, want: number[]): string {
  const message = Tensor.decode(bytes(recorded));
  const got = [...numbers(message)];
  const same = got.length === want.length && got.every((number, index) => Object.is(number, want[index]));
  const dtype = DataType[message.dtype].replace("DATA_TYPE_", "").toLowerCase();
  return `${dtype} ${message.shape} ${same ? "same" : got}`;
}

function written(dtype: string, shape: number[], values: number[]): string {
  return hex((dtype === "int64" ? integers : floats)(values, shape));
}

function describe(recorded: string): string {
  const { code, reason, field, retryAfterSeconds, message } = errorFromStatus(Status.decode(bytes(recorded)));
  return [code, reason, field ?? "", retryAfterSeconds ?? "", message].join(" ");
}

async function refused(client: Client, asked: string): Promise<string> {
  try {
    await client.embed(embedding.EmbedRequest.decode(bytes(asked)));
    return "accepted";
  } catch (error) {
    return error instanceof MidribError ? `${error.code} ${error.reason}` : String(error);
  }
}

async function streamed(client: Client, inputs: embedding.Input[]): Promise<string> {
  const outcomes: string[] = [];
  for await (const result of client.embedStream(STREAMED, inputs)) {
    outcomes[result.index] = "error" in result ? result.error.reason : hex(result.embedding);
  }
  return outcomes.join(" ");
}

async function offline(release: string): Promise<void> {
  for (const [name, type, , recorded] of rows(release, "messages.tsv")) {
    await check(`messages: ${name}`, recorded!, () => again(type!, recorded!));
  }
  for (const [name, dtype, shape, text, recorded] of rows(release, "tensors.tsv")) {
    const values = text ? text.split(" ").map(Number) : [];
    const sizes = shape ? shape.split(",").map(Number) : [];
    const writable = dtype === "float32" || dtype === "int64";
    await check(`tensors: ${name}`, `${dtype} ${shape} same ${recorded}`, () =>
      `${readTensor(recorded!, values)} ${writable ? written(dtype, sizes, values) : recorded}`,
    );
  }
  for (const [name, code, reason, field, retry, message, recorded] of rows(release, "statuses.tsv")) {
    await check(`statuses: ${name}`, [code, reason, field, retry, message].join(" "), () => describe(recorded!));
  }
}

async function online(client: Client, release: string): Promise<void> {
  const inputs: embedding.Input[] = [];
  const outcomes: string[] = [];
  for (const [name, asked, want] of rows(release, "embeddings.tsv")) {
    const request = embedding.EmbedRequest.decode(bytes(asked!));
    await check(`embeddings: ${name}`, want!, async () => hex((await client.embed(request)).embedding));
    if (request.backbone === STREAMED && !request.options) {
      inputs.push(request.input!);
      outcomes.push(want!);
    }
  }
  for (const [name, asked, want] of rows(release, "gradients.tsv")) {
    const request = embedding.BackwardRequest.decode(bytes(asked!));
    await check(`gradients: ${name}`, want!, async () => hex((await client.backward(request)).gradInput));
  }
  for (const [name, asked, code, reason] of rows(release, "refusals.tsv")) {
    await check(`refusals: ${name}`, `${code} ${reason}`, () => refused(client, asked!));
  }
  inputs.push({ kind: undefined });
  outcomes.push("INVALID_INPUT");
  await check("stream", outcomes.join(" "), () => streamed(client, inputs));
}

async function main(address: string, release: string): Promise<void> {
  await offline(release);
  const client = new Client(address);
  await online(client, release);
  client.close();
  process.exitCode = failed ? 1 : 0;
}

void main(process.argv[2]!, process.argv[3]!);
