package midrib.program;

import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.DiscardUnknownFieldsParser;
import com.google.protobuf.Message;
import com.google.protobuf.Parser;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import midrib.client.Client;
import midrib.client.MidribException;
import midrib.client.StreamResult;
import midrib.client.Tensors;
import midrib.v1.BackwardRequest;
import midrib.v1.EmbedRequest;
import midrib.v1.Input;
import midrib.v1.Open;
import midrib.v1.Tensor;

/** The checks that every client must pass (docs/clients.md). Arguments: ADDRESS RELEASE_DIRECTORY. */
final class Conformance {
  private static final String STREAMED = "golden/embedding/tensor";

  private final Path release;
  private boolean passed = true;

  private Conformance(Path release) {
    this.release = release;
  }

  public static void main(String[] arguments) throws IOException {
    Conformance conformance = new Conformance(Path.of(arguments[1]));
    conformance.offline();
    try (Client client = new Client(arguments[0])) {
      conformance.unary(client);
      conformance.stream(client);
    }
    System.exit(conformance.passed ? 0 : 1);
  }

  private void offline() throws IOException {
    for (String[] row : rows("messages.tsv")) {
      check("messages: " + row[0], row[3], () -> again(row[1], row[3]));
    }
    for (String[] row : rows("tensors.tsv")) {
      check("tensors: " + row[0], row[4], () -> tensorAgain(row[1], row[2], row[3], row[4]));
    }
    for (String[] row : rows("statuses.tsv")) {
      String want = String.join(" ", Arrays.copyOfRange(row, 1, 6));
      check("statuses: " + row[0], want, () -> describe(midrib.rpc.Status.parseFrom(bytes(row[6]))));
    }
  }

  private void unary(Client client) throws IOException {
    for (String[] row : rows("embeddings.tsv")) {
      check("embeddings: " + row[0], row[2],
          () -> hex(client.embed(EmbedRequest.parseFrom(bytes(row[1]))).getEmbedding()));
    }
    for (String[] row : rows("gradients.tsv")) {
      check("gradients: " + row[0], row[2],
          () -> hex(client.backward(BackwardRequest.parseFrom(bytes(row[1]))).getGradInput()));
    }
    for (String[] row : rows("refusals.tsv")) {
      check("refusals: " + row[0], row[2] + " " + row[3], () -> refused(client, row[1]));
    }
  }

  private void stream(Client client) throws IOException {
    List<Input> inputs = new ArrayList<>();
    List<String> want = new ArrayList<>();
    for (String[] row : rows("embeddings.tsv")) {
      EmbedRequest request = EmbedRequest.parseFrom(bytes(row[1]));
      if (request.getBackbone().equals(STREAMED) && !request.hasOptions()) {
        inputs.add(request.getInput());
        want.add(row[2]);
      }
    }
    inputs.add(Input.getDefaultInstance());
    want.add("INVALID_INPUT");
    check("stream", String.join(" ", want), () -> {
      String[] got = new String[inputs.size()];
      client.embedStream(
          Open.newBuilder().setBackbone(STREAMED).build(),
          inputs.iterator(),
          result -> got[(int) result.index()] =
              result.error() == null ? hex(result.embedding()) : result.error().reason());
      return String.join(" ", got);
    });
  }

  private void check(String name, String want, Callable<String> call) {
    String got;
    try {
      got = call.call();
    } catch (Exception error) {
      got = error.toString();
    }
    passed &= got.equals(want);
    System.out.println(
        got.equals(want) ? "ok " + name : "not ok " + name + " - got " + got + ", expected " + want);
  }

  private static String again(String type, String recorded) throws Exception {
    Class<?> message = Class.forName(type);
    Parser<?> parser = DiscardUnknownFieldsParser.wrap(
        ((Message) message.getMethod("getDefaultInstance").invoke(null)).getParserForType());
    return hex((Message) parser.parseFrom(bytes(recorded)));
  }

  /** Compares a tensor's numbers with the expected ones, and writes it again from those. */
  private static String tensorAgain(String dtype, String shape, String text, String recorded) throws IOException {
    Tensor tensor = Tensor.parseFrom(bytes(recorded));
    String name = tensor.getDtype().name().substring("DATA_TYPE_".length()).toLowerCase();
    String sizes = tensor.getShapeList().stream().map(String::valueOf).collect(Collectors.joining(","));
    double[] numbers = text.isEmpty()
        ? new double[0]
        : Arrays.stream(text.split(" ")).mapToDouble(Double::parseDouble).toArray();
    boolean same = name.equals(dtype) && sizes.equals(shape) && Arrays.equals(numbers, Tensors.numbers(tensor));
    if (!same) {
      return name + " " + sizes + " " + Arrays.toString(Tensors.numbers(tensor));
    }
    long[] dimensions = tensor.getShapeList().stream().mapToLong(Long::longValue).toArray();
    if (dtype.equals("float32")) {
      float[] values = new float[numbers.length];
      for (int index = 0; index < values.length; index++) {
        values[index] = (float) numbers[index];
      }
      return hex(Tensors.floats(values, dimensions));
    }
    if (dtype.equals("int64")) {
      return hex(Tensors.integers(Arrays.stream(numbers).mapToLong(number -> (long) number).toArray(), dimensions));
    }
    return hex(tensor);
  }

  private static String describe(midrib.rpc.Status status) {
    MidribException error = MidribException.of(status);
    String retry = error.retryAfter().map(delay -> String.valueOf(delay.toMillis() / 1e3)).orElse("");
    return String.join(" ",
        String.valueOf(error.code().value()), error.reason(), error.field(), retry, error.getMessage());
  }

  private static String refused(Client client, String asked) throws IOException {
    try {
      client.embed(EmbedRequest.parseFrom(bytes(asked)));
      return "accepted";
    } catch (MidribException error) {
      return error.code().value() + " " + error.reason();
    }
  }

  private List<String[]> rows(String file) throws IOException {
    return Files.readAllLines(release.resolve(file)).stream().map(line -> line.split("\t", -1)).toList();
  }

  private static byte[] bytes(String recorded) {
    return HexFormat.of().parseHex(recorded);
  }

  private static String hex(Message message) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try {
      CodedOutputStream coded = CodedOutputStream.newInstance(bytes);
      coded.useDeterministicSerialization();
      message.writeTo(coded);
      coded.flush();
    } catch (IOException impossible) {
      throw new java.io.UncheckedIOException(impossible);
    }
    return HexFormat.of().formatHex(bytes.toByteArray());
  }
}
