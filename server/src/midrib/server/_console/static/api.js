// The calls of the page: to this server only, with the token of this tab.

const KEY = "midrib-token";
let token = sessionStorage.getItem(KEY) ?? "";

/** An answer that is an error. code: the server's reason, such as UNAUTHENTICATED. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const hasToken = () => token !== "";

/** Use a token for all later calls; an empty one forgets it. */
export function setToken(value) {
  token = value.trim();
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

async function request(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "UNREACHABLE", "the server cannot be reached: is it running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = body.error ?? { code: "UNKNOWN", message: `the server answered ${response.status}` };
  if (response.status === 401) document.dispatchEvent(new CustomEvent("token-needed", { detail: error.message }));
  throw new ApiError(response.status, error.code, error.message);
}

export const get = async (path) => (await request(path)).json();

export async function post(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await request(path, options)).json();
}

/** Send bytes, for the map. */
export async function postBytes(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body };
  return (await request(path, options)).json();
}

/** Return the embeddings of texts or data URLs: rows as Float32Array, the seconds, the revision, the tokens. */
export async function embed(model, input) {
  const started = performance.now();
  const body = JSON.stringify({ model, input, encoding_format: "base64" });
  const headers = { "Content-Type": "application/json" };
  const response = await request("../v1/embeddings", { method: "POST", headers, body });
  const answer = await response.json();
  return {
    rows: answer.data.map((entry) => floats(entry.embedding)),
    seconds: (performance.now() - started) / 1e3,
    revision: response.headers.get("Midrib-Revision") ?? "",
    tokens: answer.usage.total_tokens,
  };
}

/** Return the numbers of a base64 of little-endian float32. */
export function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Yield the values of the server's event stream until it ends. EventSource could not send the token. */
export async function* events(path, signal) {
  const response = await request(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}
