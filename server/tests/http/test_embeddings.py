"""/v1/embeddings as OpenAI has it: each form of input and both encodings."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from midrib.server.testing import RunningServer
from midrib.v1 import embedding_pb2
from server.tests.http.calls import TEXTS, WORDS, Answer, embed_by_grpc, freed, texts


def test_texts_are_embedded_as_by_midribs_own_call(address: str, media_server: RunningServer) -> None:
    """The rows are equal to the bit and of unit length, the tokens are counted, and the revision is named."""
    answer = Answer(address, {"model": WORDS, "input": TEXTS})
    assert answer.rows == embed_by_grpc(media_server, texts(*TEXTS), normalize=True).tolist()
    assert {name: answer.json[name] for name in ("object", "model", "usage")} == {
        "object": "list",
        "model": WORDS,
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    revision = media_server.server.catalogue.entry("words").ready().served.description.revision
    assert answer.headers["Midrib-Revision"] == revision


def test_base64_is_little_endian_float32(address: str) -> None:
    """Both encodings carry the same numbers."""
    packed = Answer(address, {"model": "words", "input": TEXTS, "encoding_format": "base64"}).rows
    plain = Answer(address, {"model": "words", "input": TEXTS, "encoding_format": "float"}).rows
    assert [np.frombuffer(base64.b64decode(row), "<f4").tolist() for row in packed] == plain


@pytest.mark.parametrize(
    "value", [pytest.param("good morning", id="a text"), pytest.param(["good morning"], id="texts")]
)
def test_a_text_and_a_list_of_it_are_the_same(address: str, media_server: RunningServer, value: Any) -> None:
    """A lone text is a list of one."""
    answer = Answer(address, {"model": "words", "input": value, "user": "somebody"})
    assert answer.rows == embed_by_grpc(media_server, texts("good morning"), normalize=True).tolist()
    assert answer.json["usage"]["prompt_tokens"] == 2


def test_dimensions_truncate_before_normalisation(address: str, media_server: RunningServer) -> None:
    """A truncated row has unit length too."""
    answer = Answer(address, {"model": "words", "input": TEXTS, "dimensions": 2})
    assert answer.rows == embed_by_grpc(media_server, texts(*TEXTS), normalize=True, dimensions=2).tolist()


def test_normalize_false_leaves_the_rows_unchanged(address: str, media_server: RunningServer) -> None:
    """An option that OpenAI does not have."""
    answer = Answer(address, {"model": "words", "input": TEXTS, "normalize": False})
    assert answer.rows == embed_by_grpc(media_server, texts(*TEXTS)).tolist()


def test_no_texts_are_no_embeddings(address: str) -> None:
    """An empty batch is answered by an empty list."""
    assert Answer(address, {"model": "words", "input": []}).rows == []


@pytest.mark.parametrize(
    "field", [pytest.param(name, id=name) for name in ("encoding_format", "dimensions", "user", "normalize")]
)
def test_null_means_absent(address: str, field: str) -> None:
    """LiteLLM and Dify send `"encoding_format": null`."""
    plain = Answer(address, {"model": "words", "input": TEXTS})
    assert Answer(address, {"model": "words", "input": TEXTS, field: None}).rows == plain.rows


def test_a_call_of_2048_texts_is_split_and_answered_in_order(address: str, media_server: RunningServer) -> None:
    """OpenAI's limit; the backbone takes 1,024 rows in one item."""
    many = [f"text {number}" for number in range(2048)]
    answer = Answer(address, {"model": "words", "input": many, "normalize": False})
    halves = [embed_by_grpc(media_server, texts(*half)) for half in (many[:1024], many[1024:])]
    assert answer.rows == np.concatenate(halves).tolist()
    assert answer.json["usage"]["prompt_tokens"] == 4096
    media_server.run(freed(media_server))


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "prefix", [pytest.param("", id="base64"), pytest.param("data:image/png;base64,", id="a data URL")]
)
def test_images_are_embedded(address: str, media_server: RunningServer, prefix: str) -> None:
    """A backbone of images takes each entry of `input` as an encoded image."""
    encoded = [png((200, 10, 10)), png((10, 200, 10))]
    sent = [prefix + base64.b64encode(image).decode() for image in encoded]
    message = embedding_pb2.Input(images=embedding_pb2.Images(encoded=encoded))
    answer = Answer(address, {"model": "picture", "input": sent})
    assert answer.rows == embed_by_grpc(media_server, message, normalize=True).tolist()
    assert answer.json["usage"]["prompt_tokens"] == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_embeds(address: str, media_server: RunningServer) -> None:
    """The command that docs/protocols.md shows."""
    body = json.dumps({"model": WORDS, "input": "good morning"})
    line = ["curl", "-sS", "--fail", f"http://{address}/v1/embeddings", "-H", "Content-Type: application/json"]
    answer = subprocess.run([*line, "-d", body], check=True, capture_output=True, timeout=20).stdout
    expected = embed_by_grpc(media_server, texts("good morning"), normalize=True)[0].tolist()
    assert json.loads(answer)["data"][0]["embedding"] == expected
