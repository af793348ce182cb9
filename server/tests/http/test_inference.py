"""/v2: the Open Inference Protocol over HTTP, with tensors as JSON."""

from __future__ import annotations

import http.client
import json
from typing import Any

import numpy as np
import pytest
import torch

from midrib.server._http.call import CallAnswer
from midrib.server._http.embeddings import check_finite
from midrib.server.testing import RunningServer
from midrib.wire import InternalError
from server.tests.http.calls import Answer, embed_by_grpc, texts

WORDS = "/v2/models/text/embedding/words"
LINEAR = "/v2/models/linear"


def get(address: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    value = json.loads(response.read())
    connection.close()
    return response.status, value


def tensor(data: Any, *, name: str = "input", datatype: str = "FP32", shape: Any = (2, 2)) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(shape), "data": data}], "id": "7"}


def test_texts_are_embedded_as_by_midribs_own_call(address: str, media_server: RunningServer) -> None:
    """The model's version is the revision of the backbone, and the id of the call is returned."""
    body = {**tensor(["good", "day"], name="texts", datatype="BYTES", shape=[2]), "parameters": {"normalize": True}}
    answer = Answer(address, body, path=f"{WORDS}/infer").json
    rows = embed_by_grpc(media_server, texts("good", "day"), normalize=True)
    output = {"name": "embedding", "datatype": "FP32", "shape": [2, 4], "data": rows.reshape(-1).tolist()}
    revision = media_server.server.catalogue.entry("words").ready().served.description.revision
    name = "text/embedding/words"
    assert answer == {"id": "7", "model_name": name, "model_version": revision, "outputs": [output]}


@pytest.mark.parametrize(
    "data", [pytest.param([1, 2.5, 3, 4], id="flat"), pytest.param([[1, 2.5], [3, 4]], id="nested by rows")]
)
def test_a_tensor_may_be_flat_or_nested(address: str, media_server: RunningServer, data: Any) -> None:
    """Both are the same rows."""
    module: Any = media_server.server.catalogue.entry("linear").ready().intake.backbone.module
    answer = Answer(address, tensor(data), path=f"{LINEAR}/infer").json["outputs"][0]
    weight, bias = (parameter.detach().numpy() for parameter in module.parameters())
    expected = np.array([[1, 2.5], [3, 4]], np.float32) @ weight.T + bias
    np.testing.assert_allclose(np.reshape(answer["data"], answer["shape"]), expected, rtol=1e-5)


def test_pixels_are_the_image_that_they_come_from(address: str, media_server: RunningServer) -> None:
    """As UINT8; the backbone scales and normalises them."""
    intake = media_server.server.catalogue.entry("picture").ready().intake
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    body = tensor(pixels.tolist(), datatype="UINT8", shape=pixels.shape)
    answer = Answer(address, body, path="/v2/models/picture/infer").json["outputs"][0]
    expected = intake.backbone.embed(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(np.reshape(answer["data"], answer["shape"]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(tensor([1, 2, 3]), r"shape [2, 2] and 3 elements", id="another size"),
        pytest.param(tensor([1], shape=[]), "has shape []", id="no rows"),
        pytest.param(tensor([], shape=[0, 10**300]), "has shape [0, 1000000", id="a long dimension beside none"),
        pytest.param(tensor([], shape=[10**18, 0, 10**12]), "and 0 elements", id="long dimensions beside none"),
        pytest.param(tensor([], shape=[0, -1]), "has shape [0, -1]", id="a negative dimension"),
        pytest.param(tensor([1, 2, 3, "x"]), "with numbers that fit", id="a string among numbers"),
        pytest.param(tensor([1, 2, 3, [4]]), "with numbers that fit", id="uneven nesting"),
        pytest.param(tensor([1, 2, 3, 400], datatype="INT8"), "with numbers that fit", id="too large a number"),
        pytest.param(tensor([1, 2, 3, 1e300]), "with numbers that fit", id="infinite in FP32"),
        pytest.param(tensor([1, 2, 3, float("nan")]), "NaN is not a number in JSON", id="NaN"),
        pytest.param(tensor([1, 2, 3, 4], datatype="FP31"), "'FP31'", id="another datatype"),
        pytest.param(tensor([1, 2, 3, 4], name="x"), "'x' of 'FP32'", id="another name"),
        pytest.param(tensor([1, 2, 3, 4], datatype="BYTES"), "'input' of 'BYTES'", id="numbers as bytes"),
        pytest.param({**tensor([1] * 4), "parameters": {"truncate": 1}}, "'truncate' is unknown", id="a parameter"),
        pytest.param({"inputs": []}, "inputs has 0 entries, expected at least 1", id="no input"),
    ],
)
def test_a_bad_call_is_refused(address: str, body: Any, words: str) -> None:
    """With the received and the expected value."""
    answer = Answer(address, body, path=f"{LINEAR}/infer")
    assert (answer.status, answer.error[3], words in answer.json["error"]["message"]) == (
        400,
        "INVALID_INPUT",
        True,
    ), answer.json


def test_the_metadata_names_the_inputs(address: str) -> None:
    """A size of -1 may vary."""
    status, metadata = get(address, WORDS)
    assert (status, metadata["inputs"], metadata["outputs"]) == (
        200,
        [
            {"name": "input", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "texts", "datatype": "BYTES", "shape": [-1]},
        ],
        [{"name": "embedding", "datatype": "FP32", "shape": [-1, 4]}],
    )


def test_health_and_readiness_are_answered(address: str) -> None:
    """The server and each model have both."""
    paths = ("/v2", "/v2/health/live", "/v2/health/ready", f"{LINEAR}/ready", "/v2/models/nothing/ready")
    assert [get(address, path)[0] for path in paths] == [200, 200, 200, 200, 404]


@pytest.mark.parametrize("number", [pytest.param(np.nan, id="NaN"), pytest.param(np.inf, id="infinite")])
def test_an_embedding_that_json_cannot_carry_is_an_error(media_server: RunningServer, number: float) -> None:
    """It names the backbone, and how to get the numbers."""
    described = media_server.server.catalogue.entry("linear").ready().served.description
    features = np.array([[1, number]], np.float32)
    with pytest.raises(InternalError, match="'test/embedding/linear' returned NaN or infinite numbers.*base64"):
        check_finite(CallAnswer(described, features, tokens=0))
