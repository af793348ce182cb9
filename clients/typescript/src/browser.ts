/**
 * The client for web pages, which cannot speak gRPC: the same messages by the Connect protocol, over `fetch`, to the HTTP
 * port of a server. The server answers pages of other origins only if its setting `cors_origins` names them.
 */

import { BadRequest, ErrorInfo, RetryInfo } from "./generated/browser/google/rpc/error_details.js";
import { ListBackbonesRequest, ListBackbonesResponse } from "./generated/browser/midrib/v1/backbone.js";
import { EmbedRequest, EmbedResponse, Input } from "./generated/browser/midrib/v1/embedding.js";
import { DataType } from "./generated/browser/midrib/v1/tensor.js";
import { type Embedding, rowsOf, textList } from "./shared.js";

export { type Embedding };

/** The input: texts, or encoded images (a file of an <input>, bytes, or a data URL). */
export type BrowserInput = { texts: readonly string[] } | { images: readonly (Blob | Uint8Array | string)[] };

export interface BrowserOptions {
  /** Keep only the first features. */
  dimensions?: number;
  /** Rows of unit length. */
  normalize?: boolean;
  /** Put before each text in place of the backbone's default prompt; "" for none. */
  prompt?: string;
  /** One of the backbone's prompts, in place of `prompt`. */
  promptName?: string;
  /** Ends the call. */
  signal?: AbortSignal;
}

/** The refusal of a call. Branch on `reason`, such as "BACKBONE_NOT_FOUND". */
export class MidribHttpError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly reason: string,
    /** The field of the request that is wrong, such as "input.texts". */
    readonly field?: string,
    /** Seconds after which the same call may succeed; undefined if waiting does not help. */
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
    this.name = "MidribHttpError";
  }
}

/** How to write a request and read its response. */
interface Method<Request, Response> {
  path: string;
  request: { encode(message: Request): { finish(): Uint8Array } };
  response: { decode(bytes: Uint8Array): Response };
}

const EMBED: Method<EmbedRequest, EmbedResponse> = {
  path: "/midrib.v1.EmbeddingService/Embed",
  request: EmbedRequest,
  response: EmbedResponse,
};
const LIST: Method<ListBackbonesRequest, ListBackbonesResponse> = {
  path: "/midrib.v1.BackboneService/ListBackbones",
  request: ListBackbonesRequest,
  response: ListBackbonesResponse,
};

/** Calls one Midrib server over HTTP. Every method rejects with a MidribHttpError. */
export class BrowserClient {
  private readonly base: string;

  /** url: the HTTP port, such as "https://embeddings.example.org". token: sent as a bearer token. */
  constructor(
    url: string,
    private readonly token?: string,
  ) {
    this.base = url.replace(/\/+$/, "");
  }

  /** Embeds one batch. */
  async embed(backbone: string, input: BrowserInput, options: BrowserOptions = {}): Promise<Embedding> {
    const { signal, dimensions, ...rest } = options;
    const request = EmbedRequest.fromPartial({
      backbone,
      input: await inputOf(input),
      options: {
        ...rest,
        dtype: DataType.DATA_TYPE_FLOAT32,
        ...(dimensions === undefined ? {} : { dimensions: BigInt(dimensions) }),
      },
    });
    const { embedding, revision } = await this.call(EMBED, request, signal);
    const [count = 0, width = 0] = embedding?.shape.map(Number) ?? [];
    return { rows: rowsOf(floatsOf(embedding?.data ?? new Uint8Array()), count, width), revision };
  }

  /** The names of the served backbones. */
  async list(): Promise<string[]> {
    const { backbones } = await this.call(LIST, ListBackbonesRequest.fromPartial({}));
    return backbones.map(({ name }) => name);
  }

  private async call<Request, Response>(
    { path, request, response }: Method<Request, Response>,
    message: Request,
    signal?: AbortSignal,
  ): Promise<Response> {
    const headers = new Headers({ "Content-Type": "application/proto", "Connect-Protocol-Version": "1" });
    if (this.token !== undefined) headers.set("Authorization", `Bearer ${this.token}`);
    const body = new Uint8Array(request.encode(message).finish());
    const answer = await fetch(this.base + path, { method: "POST", headers, body, signal: signal ?? null });
    if (!answer.ok) throw await errorOf(answer);
    return response.decode(new Uint8Array(await answer.arrayBuffer()));
  }
}

/** The JSON of an error in the Connect protocol. */
interface ConnectError {
  message?: unknown;
  details?: { type: string; value: string }[];
}

/** The error of an answer. Its reason is "UNKNOWN" if the answer is not from Midrib but from a proxy. */
async function errorOf(answer: globalThis.Response): Promise<MidribHttpError> {
  const body: unknown = await answer.json().catch(() => undefined);
  const { message, details } = (body ?? {}) as ConnectError;
  let reason = "UNKNOWN";
  let field: string | undefined;
  let retryAfterSeconds = secondsOf(answer.headers.get("Retry-After"));
  for (const { type, value } of Array.isArray(details) ? details : []) {
    const bytes = bytesOf(value);
    if (type === "google.rpc.ErrorInfo") reason = ErrorInfo.decode(bytes).reason;
    if (type === "google.rpc.BadRequest") field = BadRequest.decode(bytes).fieldViolations[0]?.field;
    if (type === "google.rpc.RetryInfo") {
      const delay = RetryInfo.decode(bytes).retryDelay;
      if (delay) retryAfterSeconds = Number(delay.seconds) + delay.nanos / 1e9;
    }
  }
  const text = typeof message === "string" ? message : `the server answered with status ${answer.status}`;
  return new MidribHttpError(text, answer.status, reason, field, retryAfterSeconds);
}

/** The seconds of a Retry-After header, a number or a date; a proxy's answer has no other hint. */
function secondsOf(retryAfter: string | null): number | undefined {
  if (retryAfter === null) return undefined;
  if (/^\d+$/.test(retryAfter.trim())) return Number(retryAfter);
  const date = Date.parse(retryAfter);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
}

async function inputOf(input: BrowserInput): Promise<Input> {
  if ("texts" in input) {
    return Input.fromPartial({ kind: { $case: "texts", value: { texts: textList(input.texts) } } });
  }
  const encoded = await Promise.all(input.images.map(encodedImage));
  return Input.fromPartial({ kind: { $case: "images", value: { encoded } } });
}

async function encodedImage(image: Blob | Uint8Array | string): Promise<Uint8Array> {
  if (typeof image === "string") return bytesOf(image.slice(image.indexOf(",") + 1));
  return image instanceof Uint8Array ? image : new Uint8Array(await image.arrayBuffer());
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** The numbers of float32 in little-endian order, which is the order of every device with a browser. */
function floatsOf(data: Uint8Array): Float32Array {
  return new Float32Array(data.slice().buffer);
}
