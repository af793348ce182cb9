"""Calls that /v1/embeddings refuses: the status, the shape of the error, and the sentence."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from server.tests.http.calls import JSON, Answer

INVALID = "INVALID_INPUT"
BAD = "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        pytest.param(
            {"model": "word", "input": "x"},
            (404, BAD, None, "BACKBONE_NOT_FOUND"),
            "did you mean text/embedding/words",
            id="unknown model",
        ),
        pytest.param({"input": "x"}, (400, BAD, "model", INVALID), "model is missing", id="no model"),
        pytest.param({"model": "words"}, (400, BAD, "input", INVALID), "input is missing", id="no input"),
        pytest.param(
            {"model": "words", "input": None}, (400, BAD, "input", INVALID), "input is missing", id="input null"
        ),
        pytest.param(
            {"model": "words", "input": "x", "truncate": True},
            (400, BAD, "truncate", INVALID),
            "truncate is unknown: expected one of model, input,",
            id="unknown field",
        ),
        pytest.param(
            {"model": "words", "input": "x", "encoding_format": "hex"},
            (400, BAD, "encoding_format", INVALID),
            "'float' or 'base64'",
            id="encoding",
        ),
        pytest.param(
            {"model": "words", "input": "x", "dimensions": 0},
            (400, BAD, "dimensions", INVALID),
            "dimensions is 0, expected at least 1",
            id="no dimensions",
        ),
        pytest.param(
            {"model": "words", "input": "x", "dimensions": 5},
            (400, BAD, "options.dimensions", INVALID),
            "this backbone has 1..4",
            id="dimensions",
        ),
        pytest.param(
            {"model": "words", "input": ["x", 1]}, (400, BAD, "input", INVALID), "another form", id="mixed input"
        ),
        pytest.param({"model": "words", "input": {}}, (400, BAD, "input", INVALID), "another form", id="an object"),
        pytest.param(
            {"model": "words", "input": ["x"] * 2049},
            (413, BAD, "input", "LIMIT_EXCEEDED"),
            "2049 entries, at most 2048 are accepted",
            id="too many texts",
        ),
        pytest.param(
            {"model": "words", "input": "\ud800"}, (400, BAD, "input", INVALID), "not valid Unicode", id="surrogate"
        ),
        pytest.param(
            {"model": "linear", "input": "x"},
            (400, BAD, None, "WRONG_INPUT_KIND"),
            "it takes a tensor (float32 [2]): send that, or name a backbone that takes texts",
            id="another kind",
        ),
        pytest.param(
            {"model": "linear", "input": [1, 2]},
            (400, BAD, None, "WRONG_INPUT_KIND"),
            "does not take token ids",
            id="ids without text",
        ),
        pytest.param(
            {"model": "words", "input": "x", "prompt": "x" * 8193},
            (413, BAD, "options.prompt", "LIMIT_EXCEEDED"),
            "options.prompt has 8193 characters, at most 8192 are accepted: shorten it",
            id="a long prompt, which is put before each text",
        ),
        pytest.param(
            {"model": "picture", "input": "https://example.org/a.png"},
            (400, BAD, "input[0]", INVALID),
            "not an encoded image",
            id="an image by its URL",
        ),
        pytest.param(
            {"model": "picture", "input": [*["AAAA"] * 1500, "?"]},
            (400, BAD, "input[1500]", INVALID),
            "input[1500] is not an encoded image",
            id="an image that is not base64",
        ),
        pytest.param(
            {"model": "picture", "input": "data:text/html,AAAA"},
            (400, BAD, "input[0]", INVALID),
            "not an encoded image",
            id="a data URL of another type",
        ),
        pytest.param(
            [],
            (400, BAD, None, INVALID),
            "the body is a list, expected an object with the fields model, input,",
            id="no object",
        ),
        pytest.param(
            {str(number): 1 for number in range(65)}, (400, BAD, None, INVALID), "65 fields", id="many fields"
        ),
        pytest.param(b"{", (400, BAD, None, INVALID), "not valid JSON", id="no JSON"),
        pytest.param(b"[" * 30_000, (400, BAD, None, INVALID), "not valid JSON", id="nested too deep"),
        pytest.param(b"\xff", (400, BAD, None, INVALID), "not valid JSON", id="no UTF-8"),
        pytest.param(json.dumps({}).encode("utf-16"), (400, BAD, None, INVALID), "not valid JSON", id="UTF-16"),
        pytest.param(
            b" " * 9 * 2**20,
            (413, BAD, None, "REQUEST_ENTITY_TOO_LARGE"),
            "at most 8388608 are accepted",
            id="too large",
        ),
    ],
)
def test_a_bad_call_is_refused_in_openais_shape(address: str, body: Any, error: Any, words: str) -> None:
    """With the reasons of every other protocol as the code."""
    answer = Answer(address, body)
    assert (answer.error, words in answer.json["error"]["message"]) == (error, True), answer.json


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        pytest.param({**JSON, "X-Request-Timeout": "soon"}, "expected seconds", id="timeout in words"),
        pytest.param({**JSON, "X-Request-Timeout": "nan"}, "expected seconds", id="timeout not a number"),
        pytest.param({**JSON, "X-Request-Timeout": "0"}, "expected seconds", id="no time"),
    ],
)
def test_headers_are_checked(address: str, headers: dict[str, str], words: str) -> None:
    """The time limit of a call is a positive number of seconds."""
    answer = Answer(address, {"model": "words", "input": "x"}, headers=headers)
    assert (answer.error, words in answer.json["error"]["message"]) == ((400, BAD, None, INVALID), True)


def test_another_content_type_is_refused(address: str) -> None:
    """A page in a browser may send text/plain to a loopback address without asking the user, but not JSON."""
    answer = Answer(address, {"model": "words", "input": "x"}, headers={"Content-Type": "text/plain"})
    assert answer.error == (415, BAD, None, "UNSUPPORTED_MEDIA_TYPE")
    assert "expected 'application/json'" in answer.json["error"]["message"]


@pytest.mark.parametrize("encoding", [pytest.param(name, id=name) for name in ("gzip", "br", "zstd", "GZIP, identity")])
def test_a_compressed_body_is_not_unpacked(address: str, encoding: str) -> None:
    """A few kilobytes may unpack to gigabytes."""
    body = gzip.compress(json.dumps({"model": "words", "input": "x"}).encode())
    answer = Answer(address, body, headers={**JSON, "Content-Encoding": encoding})
    assert answer.error == (415, BAD, None, "UNSUPPORTED_MEDIA_TYPE")
    assert "send it uncompressed" in answer.json["error"]["message"]


def test_a_name_with_more_slashes_is_a_model(address: str) -> None:
    """Names are used whole."""
    answer = Answer(address, {"model": "text/embedding/words/x", "input": "x"})
    assert "'text/embedding/words/x'" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        pytest.param(
            "/v1/embedding",
            404,
            "nothing is at /v1/embedding: did you mean /v1/embeddings? GET /docs shows every path",
            id="misspelt",
        ),
        pytest.param(
            "/infer",
            404,
            "nothing is at /infer: did you mean /v2/models/{name}/infer? GET /docs shows every path",
            id="part of a path",
        ),
        pytest.param("/rank", 404, "nothing is at /rank: GET /docs shows every path", id="unknown"),
        pytest.param("/v1/models", 405, "/v1/models does not take POST: use GET or HEAD", id="method"),
    ],
)
def test_an_unknown_path_or_method_says_which_exist(address: str, path: str, status: int, message: str) -> None:
    """The first call of a newcomer is often to another server's path."""
    answer = Answer(address, {}, path=path)
    assert (answer.status, answer.json["error"]["message"]) == (status, message)


def test_an_unknown_field_of_an_inner_object_is_named(address: str) -> None:
    """With the names that this object takes."""
    answer = Answer(address, {"inputs": {"source_sentense": "x", "sentences": ["y"]}}, path="/similarity")
    message = "inputs.source_sentense is unknown: did you mean 'source_sentence'?"
    assert (answer.error, answer.json["error"]["message"]) == ((400, BAD, "inputs.source_sentense", INVALID), message)
