package midrib.client;

import com.google.protobuf.ByteString;
import java.util.Arrays;
import midrib.v1.Images;
import midrib.v1.Input;
import midrib.v1.Texts;

/** Inputs for requests and streams. */
public final class Inputs {
  private Inputs() {}

  /** An input of texts. */
  public static Input texts(String... texts) {
    return Input.newBuilder().setTexts(Texts.newBuilder().addAllTexts(Arrays.asList(texts))).build();
  }

  /** An input of encoded images, such as the bytes of PNG files. */
  public static Input images(byte[]... encoded) {
    Images.Builder images = Images.newBuilder();
    for (byte[] image : encoded) {
      images.addEncoded(ByteString.copyFrom(image));
    }
    return Input.newBuilder().setImages(images).build();
  }
}
