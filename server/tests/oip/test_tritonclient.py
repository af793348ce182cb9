"""The real tritonclient against a real server: sync, async and streaming, the same answers as Midrib's own stubs.

It cannot live in Midrib's own environment (it needs protobuf < 7), so each test runs it in a separate venv:
MIDRIB_EXTERNAL=1 python -m pytest server/tests/oip/test_tritonclient.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from midrib.oip.v2 import inference_pb2
from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc, tensor_pb2
from midrib.wire import decode_tensor, encode_tensor

pytestmark = pytest.mark.external

SCRIPTS = Path(__file__).parents[1] / "external"
REQUIREMENT = "tritonclient[grpc]==2.73.0"
ROWS = np.array([[1, 2], [3, 4]], np.float32)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "orange.png"
    Image.new("RGB", (20, 10), (255, 128, 0)).save(path)
    return path


@pytest.fixture(scope="module")
def got(
    media_server: RunningServer, test_registry: Registry, external_python: Callable[[str], Path], picture: Path
) -> Any:
    """All that tritonclient got from the server, and from one that lets it load."""
    script = [str(external_python(REQUIREMENT)), str(SCRIPTS / "calls_by_tritonclient.py")]
    with serving(registry=test_registry, admin=True) as admin:
        command = [*script, media_server.address, admin.address, str(picture)]
        # Its errors go to ours, where pytest shows them.
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout)


@pytest.fixture(scope="module")
def stub_answers(media_server: RunningServer) -> Callable[..., Any]:
    """The answer of Midrib's own call, as a list."""

    def embed(backbone: str, **fields: Any) -> Any:
        with grpc.insecure_channel(media_server.address) as channel:
            stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            options = embedding_pb2.Options(**fields.pop("options", {}))
            message = embedding_pb2.Input(**fields)
            request = embedding_pb2.EmbedRequest(backbone=backbone, input=message, options=options)
            return decode_tensor(stub.Embed(request, timeout=10).embedding).astype(np.float32).tolist()

    return embed


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("FP32", {"tensor": encode_tensor(ROWS)}, id="FP32"),
        pytest.param(
            "FP16",
            {
                "tensor": encode_tensor(ROWS.astype(np.float16)),
                "options": {"dtype": tensor_pb2.DATA_TYPE_FLOAT16},
            },
            id="FP16",
        ),
        pytest.param(
            "BF16",
            {
                "tensor": encode_tensor(ROWS.astype("bfloat16")),
                "options": {"dtype": tensor_pb2.DATA_TYPE_BFLOAT16},
            },
            id="BF16",
        ),
        pytest.param("normalised", {"tensor": encode_tensor(ROWS), "options": {"normalize": True, "dimensions": 2}}),
        pytest.param("output", {"tensor": encode_tensor(ROWS)}, id="requested output"),
    ],
)
def test_tensors_are_answered_as_by_midribs_own_stub(
    got: Any, stub_answers: Any, name: str, call: dict[str, Any]
) -> None:
    """The answers are equal to the bit, in each floating type."""
    assert got["inferred"][name] == stub_answers("linear", **call)


def test_token_ids_texts_and_images_are_answered_as_by_midribs_own_stub(
    got: Any, stub_answers: Any, picture: Path
) -> None:
    """The answers are equal to the bit."""
    texts = embedding_pb2.Texts(texts=["good morning", "la bonne nuit"])
    images = embedding_pb2.Images(encoded=[picture.read_bytes()])
    expected = {
        "INT64": stub_answers("words", tensor=encode_tensor(np.array([[5, 6, 0]]))),
        "texts": stub_answers("words", texts=texts),
        "images": stub_answers("picture", images=images),
    }
    assert {name: got["inferred"][name] for name in expected} == expected


def test_the_asynchronous_calls_answer_the_same(got: Any, stub_answers: Any) -> None:
    """The calls are made with call-backs, and twenty at a time with asyncio."""
    assert got["called back"] == stub_answers("linear", tensor=encode_tensor(ROWS))
    assert got["asynchronously"]["together"] == [
        stub_answers("linear", tensor=encode_tensor(ROWS + np.float32(number))) for number in range(20)
    ]


def test_a_stream_answers_in_order_and_one_bad_request_spoils_only_itself(got: Any, stub_answers: Any) -> None:
    """This holds for the threaded client and for asyncio."""
    rows = [np.full((1, 2), number, np.float32) for number in range(20)]
    expected = [stub_answers("linear", tensor=encode_tensor(row)) for row in rows]
    assert got["asynchronously"]["stream"] == expected
    wrong = got["streamed"].pop(10)
    assert "takes [rows, 2]" in wrong
    assert got["streamed"] == [[str(number), expected[number]] for number in range(20) if number != 10]


def test_every_query_of_tritonclient_is_answered(got: Any) -> None:
    """These are live, ready, metadata, configuration, statistics and index."""
    assert got["asked"] == {
        "ready": [True, True, True],
        "not ready": False,
        "server": "midrib",
        "inputs": [["input", "INT64"], ["texts", "BYTES"]],
        "max_batch_size": 1024,
        "counted": True,
        "index": ["image/embedding/picture", "test/embedding/linear", "text/embedding/words"],
    }


def test_an_admin_loads_and_unloads_models(got: Any, stub_answers: Any) -> None:
    """Models are loaded by name only: neither a configuration nor a file is accepted."""
    administered = got["administered"]
    assert administered["ready"] == [False, True, False]
    assert administered["used"] == stub_answers("linear", tensor=encode_tensor(ROWS))
    assert [status for status, _ in administered["refused"]] == ["StatusCode.INVALID_ARGUMENT"] * 2


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        pytest.param("unknown model", "StatusCode.NOT_FOUND", "did you mean test/embedding/linear", id="unknown"),
        pytest.param("wrong shape", "StatusCode.INVALID_ARGUMENT", "takes [rows, 2]", id="shape"),
        pytest.param("no admin", "StatusCode.PERMISSION_DENIED", "--admin", id="no admin"),
        pytest.param("shared memory", "StatusCode.UNIMPLEMENTED", "", id="shared memory"),
    ],
)
def test_a_refusal_reaches_the_caller(got: Any, name: str, status: str, words: str) -> None:
    """As an InferenceServerException with the status and the sentence."""
    code, message = got[name]
    assert (code, words in message) == (status, True)


def test_the_messages_are_tritonclients_own(external_python: Callable[[str], Path], tmp_path: Path) -> None:
    """Names, numbers and types; both live in one process."""
    # In a separate folder: a package beside it here may be another protobuf.
    generated = tmp_path / "midrib/oip/v2/inference_pb2.py"
    generated.parent.mkdir(parents=True)
    shutil.copy(inference_pb2.__file__, generated)
    command = [external_python(REQUIREMENT), SCRIPTS / "messages_of_tritonclient.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("", "", 0)
