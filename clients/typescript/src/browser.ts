/**
 * The client for web pages: it calls the HTTP port of a server by `fetch`, since browsers cannot speak gRPC.
 * The server answers pages of other origins only if its setting `cors_origins` names them.
 */

/** The input: texts, or encoded images (a file of an <input>, bytes, or a data URL). */
export type BrowserInput = { texts: readonly string[] } | { images: readonly (Blob | Uint8Array | string)[] };

export interface BrowserOptions {
  /** Keep only the first features. */
  dimensions?: number;
  /** Rows of unit length; true by default, as in OpenAI's API. */
  normalize?: boolean;
  /** Ends the call. */
  signal?: AbortSignal;
}

/** One row of features for each input, and the revision of the backbone that computed them. */
export interface Embedding {
  rows: Float32Array[];
  revision: string;
}

/** The refusal of a call. Branch on `reason`, such as "BACKBONE_NOT_FOUND". */
export class MidribHttpError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly reason: string,
    /** The field of the request that is wrong, such as "input". */
    readonly field?: string,
    /** Seconds after which the same call may succeed; undefined if waiting does not help. */
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
    this.name = "MidribHttpError";
  }
}

/** Talks to the HTTP port of one Midrib server. Every method rejects with a MidribHttpError. */
export class BrowserClient {
  private readonly base: string;

  /** url: of the HTTP port, such as "https://embeddings.example.org". token: sent as a bearer token. */
  constructor(
    url: string,
    private readonly token?: string,
  ) {
    this.base = url.replace(/\/+$/, "");
  }

  /** Embeds one batch. */
  async embed(backbone: string, input: BrowserInput, options: BrowserOptions = {}): Promise<Embedding> {
    const { signal, ...rest } = options;
    const values = "texts" in input ? input.texts : await Promise.all(input.images.map(encodedImage));
    const response = await this.call("/v1/embeddings", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: backbone, input: values, encoding_format: "base64", ...rest }),
      signal: signal ?? null,
    });
    const { data } = (await response.json()) as { data: { embedding: string }[] };
    const rows = data.map(({ embedding }) => floatsOf(embedding));
    return { rows, revision: response.headers.get("Midrib-Revision") ?? "" };
  }

  /** The names of the served backbones. */
  async list(): Promise<string[]> {
    const response = await this.call("/v1/models", {});
    const { data } = (await response.json()) as { data: { id: string }[] };
    return data.map(({ id }) => id);
  }

  private async call(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.token !== undefined) headers.set("Authorization", `Bearer ${this.token}`);
    const response = await fetch(this.base + path, { ...init, headers });
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

/** The error of an answer. Its reason is "UNKNOWN" if the answer is not from Midrib but from a proxy. */
async function errorOf(response: Response): Promise<MidribHttpError> {
  const { error } = (await response.json().catch(() => ({}))) as {
    error?: { message: string; code?: string; param?: string | null };
  };
  const wait = response.headers.get("Retry-After");
  return new MidribHttpError(
    error?.message ?? `the server answered with status ${response.status}`,
    response.status,
    error?.code ?? "UNKNOWN",
    error?.param ?? undefined,
    wait === null ? undefined : Number(wait),
  );
}

async function encodedImage(image: Blob | Uint8Array | string): Promise<string> {
  if (typeof image === "string") return image;
  const bytes = image instanceof Uint8Array ? image : new Uint8Array(await image.arrayBuffer());
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

/** Little-endian float32, which is the order of bytes of every device with a browser. */
function floatsOf(base64: string): Float32Array {
  const binary = atob(base64);
  return new Float32Array(Uint8Array.from(binary, (character) => character.charCodeAt(0)).buffer);
}
