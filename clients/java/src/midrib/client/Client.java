package midrib.client;

import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;
import midrib.v1.Backbone;
import midrib.v1.BackboneServiceGrpc;
import midrib.v1.BackwardRequest;
import midrib.v1.BackwardResponse;
import midrib.v1.EmbedRequest;
import midrib.v1.EmbedResponse;
import midrib.v1.EmbeddingServiceGrpc;
import midrib.v1.GetBackboneRequest;
import midrib.v1.Input;
import midrib.v1.Open;

/** Talks to one Midrib server; may be used by many threads. Every method throws {@link MidribException}. */
public final class Client implements AutoCloseable {
  private static final int MAX_MESSAGE_BYTES = 64 << 20;

  private final ManagedChannel channel;
  private final Duration timeout;

  /** A client without TLS of the server at "host:port". */
  public Client(String address) {
    this(ManagedChannelBuilder.forTarget(address).usePlaintext(), Duration.ofSeconds(30));
  }

  /** timeout: of a unary call. */
  public Client(ManagedChannelBuilder<?> channel, Duration timeout) {
    this.channel = channel.maxInboundMessageSize(MAX_MESSAGE_BYTES).build();
    this.timeout = timeout;
  }

  /** The server's description of a backbone. */
  public Backbone describe(String name) {
    GetBackboneRequest request = GetBackboneRequest.newBuilder().setName(name).build();
    BackboneServiceGrpc.BackboneServiceBlockingStub backbones =
        BackboneServiceGrpc.newBlockingStub(channel).withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS);
    return call(() -> backbones.getBackbone(request)).getBackbone();
  }

  /** Embeds one batch. */
  public EmbedResponse embed(EmbedRequest request) {
    return call(() -> embeddings().embed(request));
  }

  /** One row of features for each text. */
  public float[][] embedTexts(String backbone, String... texts) {
    return rows(backbone, Inputs.texts(texts));
  }

  /** One row of features for each encoded image, such as the bytes of a PNG file. */
  public float[][] embedImages(String backbone, byte[]... encoded) {
    return rows(backbone, Inputs.images(encoded));
  }

  /** The gradient of an input, given the gradient of its embedding. */
  public BackwardResponse backward(BackwardRequest request) {
    return call(() -> embeddings().backward(request));
  }

  /**
   * Embeds inputs, which are taken only as fast as the server reads them, and passes every result to onResult as soon
   * as it is ready, not in order. Both are called on gRPC's threads; their exceptions end the stream and are thrown
   * here. A server that drains answers the inputs that it has read, and then this throws UNAVAILABLE: send the rest
   * again.
   */
  public void embedStream(Open open, Iterator<Input> inputs, Consumer<StreamResult> onResult)
      throws InterruptedException {
    EmbedCall call = new EmbedCall(open, inputs, onResult);
    EmbeddingServiceGrpc.newStub(channel).embedStream(call);
    call.await();
  }

  @Override
  public void close() {
    channel.shutdown();
  }

  private EmbeddingServiceGrpc.EmbeddingServiceBlockingStub embeddings() {
    return EmbeddingServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS);
  }

  private float[][] rows(String backbone, Input input) {
    return Tensors.rows(embed(EmbedRequest.newBuilder().setBackbone(backbone).setInput(input).build()).getEmbedding());
  }

  private static <T> T call(Supplier<T> call) {
    try {
      return call.get();
    } catch (StatusRuntimeException error) {
      throw MidribException.of(error);
    }
  }
}
