"""The real openai package against a real server: the same answers as Midrib's own stubs.

The package gets a new venv: MIDRIB_EXTERNAL=1 python -m pytest server/tests/http/test_openai.py
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.server.testing import RunningServer
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

pytestmark = pytest.mark.external

SCRIPT = Path(__file__).parents[1] / "external" / "calls_by_openai.py"
REQUIREMENT = "openai==3.54.0"
TEXTS = embedding_pb2.Input(texts=embedding_pb2.Texts(texts=["good morning", "la bonne nuit"]))
FIRST = embedding_pb2.Input(texts=embedding_pb2.Texts(texts=["good morning"]))
IDS = embedding_pb2.Input(tensor=encode_tensor(np.array([[5, 6], [7, 0]])))
ONE = embedding_pb2.Input(tensor=encode_tensor(np.array([[5, 6]])))


@pytest.fixture(scope="module")
def received(media_server: RunningServer, external_python: Callable[[str], Path]) -> Any:
    """Every answer that the package received."""
    command = [str(external_python(REQUIREMENT)), str(SCRIPT), str(media_server.server.http_address)]
    # Its errors go to ours, where pytest shows them.
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout)


@pytest.fixture(scope="module")
def by_grpc(media_server: RunningServer) -> Callable[..., Any]:
    """The answer of Midrib's own call, as a list."""

    def embed(message: embedding_pb2.Input, **options: Any) -> Any:
        with grpc.insecure_channel(media_server.address) as channel:
            stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            request = embedding_pb2.EmbedRequest(
                backbone="words", input=message, options=embedding_pb2.Options(**options)
            )
            return decode_tensor(stub.Embed(request, timeout=10).embedding).tolist()

    return embed


@pytest.mark.parametrize(
    ("name", "message", "options"),
    [
        pytest.param("texts", TEXTS, {"normalize": True}, id="texts"),
        pytest.param("text", FIRST, {"normalize": True}, id="a text"),
        pytest.param("float", TEXTS, {"normalize": True}, id="as numbers"),
        pytest.param("dimensions", TEXTS, {"normalize": True, "dimensions": 2}, id="dimensions"),
        pytest.param("as made", TEXTS, {}, id="not normalised"),
        pytest.param("ids", IDS, {"normalize": True}, id="lists of token ids"),
        pytest.param("one text's ids", ONE, {"normalize": True}, id="token ids"),
    ],
)
def test_openai_receives_the_rows_that_midribs_own_stub_receives(
    received: Any, by_grpc: Any, name: str, message: embedding_pb2.Input, options: dict[str, Any]
) -> None:
    """The rows are equal to the bit, in each form of input and both encodings."""
    assert received["embedded"][name] == by_grpc(message, **options)


def test_calls_side_by_side_get_the_same(received: Any, by_grpc: Any) -> None:
    """The asynchronous client makes them."""
    assert received["asynchronously"] == [by_grpc(TEXTS, normalize=True)] * 20


def test_usage_and_models_are_read(received: Any) -> None:
    """The package's own types hold them."""
    assert (received["embedded"]["tokens"], received["model"]) == (5, "text/embedding/words")
    assert received["models"] == ["image/embedding/picture", "test/embedding/linear", "text/embedding/words"]


@pytest.mark.parametrize(
    ("name", "refused", "words"),
    [
        pytest.param(
            "unknown model", ["NotFoundError", 404, "BACKBONE_NOT_FOUND", None], "did you mean", id="unknown model"
        ),
        pytest.param(
            "dimensions", ["BadRequestError", 400, "INVALID_INPUT", "options.dimensions"], "1..4", id="dimensions"
        ),
        pytest.param("too many", ["APIStatusError", 413, "LIMIT_EXCEEDED", "input"], "split it", id="too many texts"),
    ],
)
def test_a_refusal_reaches_the_caller(received: Any, name: str, refused: list[Any], words: str) -> None:
    """As the package's own error, with the reason as its code."""
    *error, message = received[name]
    assert (error, words in message) == (refused, True)
