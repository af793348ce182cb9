package midrib.client;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.Iterator;
import java.util.concurrent.CountDownLatch;
import java.util.function.Consumer;
import midrib.v1.EmbedStreamRequest;
import midrib.v1.EmbedStreamResponse;
import midrib.v1.Input;
import midrib.v1.Item;
import midrib.v1.Open;

/** One EmbedStream call. gRPC calls its methods one at a time. */
final class EmbedCall implements ClientResponseObserver<EmbedStreamRequest, EmbedStreamResponse> {
  private final Open open;
  private final Iterator<Input> inputs;
  private final Consumer<StreamResult> onResult;
  private final CountDownLatch ended = new CountDownLatch(1);
  private ClientCallStreamObserver<EmbedStreamRequest> requests;
  private RuntimeException failure;
  private long next = -1;
  private boolean allSent;

  EmbedCall(Open open, Iterator<Input> inputs, Consumer<StreamResult> onResult) {
    this.open = open;
    this.inputs = inputs;
    this.onResult = onResult;
  }

  /** Waits for the end of the call. Throws the error that ended it, unless the last result did. */
  void await() throws InterruptedException {
    try {
      ended.await();
    } catch (InterruptedException interrupted) {
      requests.cancel("interrupted", interrupted);
      throw interrupted;
    }
    if (failure != null) {
      throw failure;
    }
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<EmbedStreamRequest> observer) {
    requests = observer;
    requests.setOnReadyHandler(() -> guarded(this::send));
  }

  /** Sends as much as the transport takes; it calls again when it takes more. */
  private void send() {
    while (requests.isReady() && !allSent) {
      if (next < 0) {
        requests.onNext(EmbedStreamRequest.newBuilder().setOpen(open).build());
      } else if (inputs.hasNext()) {
        Item item = Item.newBuilder().setId(next).setInput(inputs.next()).build();
        requests.onNext(EmbedStreamRequest.newBuilder().setItem(item).build());
      } else {
        allSent = true;
        requests.onCompleted();
      }
      next++;
    }
  }

  @Override
  public void onNext(EmbedStreamResponse response) {
    if (response.hasResult()) {
      guarded(() -> onResult.accept(StreamResult.of(response.getResult())));
    } else if (response.hasGoAway()) {
      Status leaving = Status.UNAVAILABLE.withDescription(response.getGoAway().getReason());
      failure = MidribException.of(leaving.asRuntimeException());
    }
  }

  @Override
  public void onError(Throwable error) {
    if (failure == null) {
      failure = MidribException.of((StatusRuntimeException) error);
    }
    ended.countDown();
  }

  @Override
  public void onCompleted() {
    ended.countDown();
  }

  /** Runs the caller's code. An exception cancels the call. */
  private void guarded(Runnable code) {
    try {
      code.run();
    } catch (RuntimeException thrown) {
      failure = thrown;
      requests.cancel("the caller's code threw", thrown);
    }
  }
}
