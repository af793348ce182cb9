"""ModelInfer: every kind of input, and the options of an embedding."""

from __future__ import annotations

import io
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor
from server.tests.oip.oip_client import (
    GATE,
    ROWS,
    Inference,
    Request,
    option,
    raw,
    rows,
    tensor,
    texts,
)


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        pytest.param("FP32", np.float32, id="FP32"),
        pytest.param("FP16", np.float16, id="FP16"),
        pytest.param("BF16", ml_dtypes.bfloat16, id="BF16"),
        pytest.param("FP64", np.float64, id="FP64"),
    ],
)
def test_raw_tensors_go_end_to_end_in_each_floating_type(inference: Inference, datatype: str, dtype: Any) -> None:
    """The input has the datatype of the tensor, the output that of the parameter."""
    request = raw(ROWS.astype(dtype), datatype, id="7", parameters={"dtype": option(string_param=datatype)})
    answer = inference.ModelInfer(request, timeout=10)
    assert rows(answer, dtype) == (ROWS * 2).tolist()
    assert (answer.id, answer.model_name, answer.outputs[0].datatype) == ("7", GATE, datatype)


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(tensor("FP32", [1, 2], fp32_contents=[1, 2]), id="FP32"),
        pytest.param(tensor("FP64", [1, 2], fp64_contents=[1, 2]), id="FP64"),
    ],
)
def test_typed_contents_are_the_same_as_raw(inference: Inference, typed: Any) -> None:
    """The protocol's other way to send elements."""
    assert rows(inference.ModelInfer(Request(model_name="gate", inputs=[typed]), timeout=10)) == [[2, 4]]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(tensor("INT64", [1, 2], int64_contents=[5, 6]), id="INT64"),
        pytest.param(tensor("INT32", [1, 2], int_contents=[5, 6]), id="INT32"),
        pytest.param(tensor("UINT8", [1, 2], uint_contents=[5, 6]), id="UINT8"),
    ],
)
def test_token_ids_go_in_every_integer_type(media: Inference, ids: Any) -> None:
    """As a tensor of a text backbone."""
    answer = media.ModelInfer(Request(model_name="words", inputs=[ids]), timeout=10)
    same = media.ModelInfer(raw(np.array([[5, 6]]), "INT64", model="words"), timeout=10)
    assert rows(answer) == rows(same)


@pytest.mark.parametrize("shape", [pytest.param([2], id="[rows]"), pytest.param([2, 1], id="[rows, 1]")])
def test_texts_go_as_bytes_typed_or_raw(media: Inference, media_channel: grpc.Channel, shape: list[int]) -> None:
    """The same answer as Midrib's own call, to the bit."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(media_channel)
    said = ["good morning", "la bonne nuit"]
    message = embedding_pb2.Input(texts=embedding_pb2.Texts(texts=said))
    expected = decode_tensor(
        stub.Embed(embedding_pb2.EmbedRequest(backbone="words", input=message), timeout=10).embedding
    )
    elements = [text.encode() for text in said]
    typed = Request(model_name="words", inputs=[tensor("BYTES", shape, name="texts", bytes_contents=elements)])
    answers = [media.ModelInfer(request, timeout=10) for request in (typed, texts(*elements))]
    assert [rows(answer) for answer in answers] == [expected.tolist()] * 2


def test_encoded_images_go_as_bytes(media: Inference, media_channel: grpc.Channel) -> None:
    """The same answer as Midrib's own call, to the bit."""
    encoded = io.BytesIO()
    Image.new("RGB", (20, 10), (255, 128, 0)).save(encoded, "PNG")
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(media_channel)
    message = embedding_pb2.Input(images=embedding_pb2.Images(encoded=[encoded.getvalue()]))
    expected = stub.Embed(embedding_pb2.EmbedRequest(backbone="picture", input=message), timeout=10).embedding
    answer = media.ModelInfer(texts(encoded.getvalue(), name="images", model="picture"), timeout=10)
    assert rows(answer) == decode_tensor(expected).tolist()


def test_pixels_go_as_uint8(media: Inference, media_channel: grpc.Channel) -> None:
    """The same answer as Midrib's own call, to the bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(media_channel)
    message = embedding_pb2.Input(tensor=encode_tensor(pixels))
    expected = stub.Embed(embedding_pb2.EmbedRequest(backbone="picture", input=message), timeout=10).embedding
    answer = media.ModelInfer(raw(pixels, "UINT8", model="picture"), timeout=10)
    assert rows(answer) == decode_tensor(expected).tolist()


def test_parameters_normalise_and_truncate(inference: Inference) -> None:
    """As Midrib's own options do."""
    options = {"normalize": option(bool_param=True), "dimensions": option(int64_param=1)}
    assert rows(inference.ModelInfer(raw(ROWS, "FP32", parameters=options), timeout=10)) == [[1], [1], [1]]


def test_no_rows_are_an_empty_embedding(inference: Inference) -> None:
    """An empty batch is valid."""
    answer = inference.ModelInfer(raw(np.empty((0, 2), np.float32), "FP32"), timeout=10)
    assert list(answer.outputs[0].shape) == [0, 2]


def test_a_version_pins_the_revision(inference: Inference) -> None:
    """The answer names it; asking for it again is fine."""
    version = inference.ModelInfer(raw(ROWS, "FP32"), timeout=10).model_version
    assert inference.ModelInfer(raw(ROWS, "FP32", model_version=version), timeout=10).model_version == version
