"""Input declarations survive encoding and decoding."""

from __future__ import annotations

import pytest

from midrib.registry import AudioInput, ImageInput, InputSpec, TensorInput, TextInput
from midrib.v1 import backbone_pb2
from midrib.wire import InvalidInputError, decode_input_spec, encode_input_spec


@pytest.mark.parametrize(
    "spec",
    [
        TensorInput((784,)),
        TensorInput((None, 3), "bfloat16"),
        ImageInput(224, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), interpolation="bilinear", crop=1.0),
        ImageInput(224, squash=True),
        ImageInput(1024, width=768),
        ImageInput(512, crop=1.15, border=True),
        TextInput(256),
        AudioInput(16_000),
    ],
    ids=[
        "tensor",
        "open tensor",
        "image",
        "squashed image",
        "image that is not square",
        "bordered image",
        "text",
        "audio",
    ],
)
def test_a_declaration_comes_back_equal(spec: InputSpec) -> None:
    """A client reads the spec that the loader declared."""
    assert decode_input_spec(encode_input_spec(spec)) == spec


def test_every_declaration_includes_its_tensor() -> None:
    """Clients without preprocessing can send tensors."""
    message = encode_input_spec(ImageInput(32))
    assert list(message.tensor.shape) == [3, 32, 32]


def test_an_unknown_element_type_is_refused() -> None:
    """A server of a later version may use types that this client does not know."""
    with pytest.raises(InvalidInputError, match="input.dtype is unspecified"):
        decode_input_spec(backbone_pb2.InputSpec())
