import { ChannelCredentials, ClientDuplexStream, credentials, Metadata, ServiceError, status as Code } from "@grpc/grpc-js";
import { MidribError, errorFromCall, errorFromStatus } from "./errors.js";
import { Backbone, BackboneServiceClient } from "./generated/midrib/v1/backbone.js";
import {
  BackwardRequest,
  BackwardResponse,
  EmbeddingServiceClient,
  EmbedRequest,
  EmbedResponse,
  EmbedStreamRequest,
  EmbedStreamResponse,
  Input,
  Open,
  Options,
  Result,
} from "./generated/midrib/v1/embedding.js";
import { embeddingOf, inputOf, type PlainInput } from "./inputs.js";
import { type Embedding } from "./shared.js";
import { Tensor } from "./generated/midrib/v1/tensor.js";

const MAX_MESSAGE_BYTES = 64 * 2 ** 20;

/** The outcome of one input of a stream: its place among the inputs, and an embedding or that input's error. */
export type StreamResult = { index: number } & ({ embedding: Tensor } | { error: MidribError });

type Callback<T> = (error: ServiceError | null, response: T) => void;
type EmbedCall = ClientDuplexStream<EmbedStreamRequest, EmbedStreamResponse>;

/** Talks to one Midrib server. Every method rejects with a MidribError. */
export class Client {
  private readonly backbones: BackboneServiceClient;
  private readonly embeddings: EmbeddingServiceClient;

  /** address: "host:port". security: grpc-js's, such as `credentials.createSsl()`. timeoutMs: for each unary call. */
  constructor(
    address: string,
    security: ChannelCredentials = credentials.createInsecure(),
    private readonly timeoutMs = 30_000,
  ) {
    const options = {
      "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
      "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    };
    this.backbones = new BackboneServiceClient(address, security, options);
    this.embeddings = new EmbeddingServiceClient(address, security, options);
  }

  close(): void {
    this.backbones.close();
    this.embeddings.close();
  }

  /** The server's description of a backbone. */
  async describe(name: string): Promise<Backbone> {
    const { backbone } = await unary<{ backbone?: Backbone | undefined }>((done) =>
      this.backbones.getBackbone({ name }, done),
    );
    return backbone!;
  }

  /** Embeds one batch: a row of features for each text, image or row of a tensor. */
  embed(backbone: string, input: PlainInput, options?: Partial<Options>): Promise<Embedding>;
  /** Embeds the batch of a request; returns the message of the server. */
  embed(request: Partial<EmbedRequest> & { backbone: string }): Promise<EmbedResponse>;
  async embed(
    target: string | (Partial<EmbedRequest> & { backbone: string }),
    input?: PlainInput,
    options?: Partial<Options>,
  ): Promise<Embedding | EmbedResponse> {
    if (typeof target !== "string") return this.call(EmbedRequest.fromPartial(target));
    const request = EmbedRequest.fromPartial({ backbone: target, input: inputOf(input!), options });
    return embeddingOf(await this.call(request));
  }

  private call(request: EmbedRequest): Promise<EmbedResponse> {
    return unary((done) => this.embeddings.embed(request, new Metadata(), this.deadline(), done));
  }

  /** The gradient of the input, given the gradient of the embedding. */
  backward(request: BackwardRequest): Promise<BackwardResponse> {
    return unary((done) => this.embeddings.backward(request, new Metadata(), this.deadline(), done));
  }

  /**
   * Embeds a stream of inputs. Results come as soon as they are ready: sort them by `index` if their order matters.
   * Inputs are taken only as fast as the server reads; leaving the loop ends the call. A server that drains answers
   * the inputs that it has read, and then this throws UNAVAILABLE: send the inputs without a result again.
   */
  async *embedStream(
    backbone: string,
    inputs: Iterable<Input> | AsyncIterable<Input>,
    options?: Options,
  ): AsyncGenerator<StreamResult> {
    const call = this.embeddings.embedStream();
    call.on("error", () => {}); // the loop below throws it; an error after the loop is ignored
    const sending = send(call, backbone, inputs, options).catch((error) => call.destroy(error));
    let goodbye: MidribError | undefined;
    try {
      for await (const { message } of call as AsyncIterable<EmbedStreamResponse>) {
        if (message?.$case === "result") yield streamResult(message.value);
        if (message?.$case === "goAway") {
          goodbye = new MidribError(message.value.reason, Code.UNAVAILABLE, "UNAVAILABLE");
        }
      }
      if (goodbye) throw goodbye;
    } catch (error) {
      throw isServiceError(error) ? errorFromCall(error) : error;
    } finally {
      call.cancel();
      await sending;
    }
  }

  private deadline(): { deadline: number } {
    return { deadline: Date.now() + this.timeoutMs };
  }
}

function unary<T>(start: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) =>
    start((error, response) => (error ? reject(errorFromCall(error)) : resolve(response))),
  );
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "metadata" in error;
}

/** Sends inputs as the server reads them: a full buffer waits for it to drain, or for the call to end. */
async function send(
  call: EmbedCall,
  backbone: string,
  inputs: Iterable<Input> | AsyncIterable<Input>,
  options: Options | undefined,
): Promise<void> {
  call.write({ message: { $case: "open", value: Open.fromPartial({ backbone, options }) } });
  let id = 0n;
  for await (const input of inputs) {
    if (call.destroyed) return;
    const room = call.write({ message: { $case: "item", value: { id: id++, input, shared: undefined } } });
    if (!room) await drained(call);
  }
  call.end();
}

/** Waits until a call takes more, or has ended. */
function drained(call: EmbedCall): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      call.off("drain", done).off("close", done);
      resolve();
    };
    call.on("drain", done).on("close", done);
  });
}

function streamResult({ id, outcome }: Result): StreamResult {
  const index = Number(id);
  if (outcome?.$case === "embedding") return { index, embedding: outcome.value };
  const status = outcome?.value ?? { code: Code.INTERNAL, message: "the server sent no outcome", details: [] };
  return { index, error: errorFromStatus(status) };
}
