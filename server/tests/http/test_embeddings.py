"""/v1/embeddings as OpenAI has it: every form of input, both encodings, every refusal."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import queue
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor

WORDS = "text/embedding/words"
TEXTS = ["good morning", "la bonne nuit"]
JSON = {"Content-Type": "application/json"}


class Answer:
    """Status, headers and JSON of one call, on a connection of its own."""

    def __init__(
        self, address: str | None, body: Any, *, headers: dict[str, str] = JSON, path: str = "/v1/embeddings"
    ) -> None:
        connection = http.client.HTTPConnection(str(address), timeout=20)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        self.status, self.headers, self.json = response.status, response.headers, json.loads(response.read())
        connection.close()

    @property
    def error(self) -> tuple[int, str, str | None, str]:
        """Status, type, param and code, as OpenAI's clients read them."""
        listener = self.json["error"]
        return self.status, listener["type"], listener["param"], listener["code"]

    @property
    def rows(self) -> list[Any]:
        """The embeddings in their order."""
        assert [one["index"] for one in self.json["data"]] == list(range(len(self.json["data"])))
        return [one["embedding"] for one in self.json["data"]]


@pytest.fixture(scope="module")
def address(media_server: RunningServer) -> str | None:
    return media_server.server.http_address


def own(server: RunningServer, texts: list[str], **options: Any) -> Array:
    """What Midrib's own call answers."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(
            backbone="words",
            input=embedding_pb2.Input(texts=embedding_pb2.Texts(texts=texts)),
            options=embedding_pb2.Options(**options),
        )
        return decode_tensor(stub.Embed(request, timeout=10).embedding)


def test_texts_are_embedded_as_by_midribs_own_call(address: str, media_server: RunningServer) -> None:
    """To the bit, each row of unit length, with the tokens counted and the revision named."""
    answer = Answer(address, {"model": WORDS, "input": TEXTS})
    assert answer.rows == own(media_server, TEXTS, normalize=True).tolist()
    assert {name: answer.json[name] for name in ("object", "model", "usage")} == {
        "object": "list",
        "model": WORDS,
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    revision = media_server.server.catalogue.entry("words").ready().served.description.revision
    assert answer.headers["Midrib-Revision"] == revision


def test_base64_is_little_endian_float32(address: str) -> None:
    """The same numbers as in the other encoding."""
    packed = Answer(address, {"model": "words", "input": TEXTS, "encoding_format": "base64"}).rows
    plain = Answer(address, {"model": "words", "input": TEXTS, "encoding_format": "float"}).rows
    assert [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in packed] == plain


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("good morning", id="a text"),
        pytest.param(["good morning"], id="texts"),
        pytest.param([1 + sum(b"good") % 99, 1 + sum(b"morning") % 99], id="token ids"),
        pytest.param([[1 + sum(b"good") % 99, 1 + sum(b"morning") % 99]], id="lists of token ids"),
    ],
)
def test_each_form_of_input_is_the_same_text(address: str, media_server: RunningServer, value: Any) -> None:
    """Token ids are those of the backbone's own tokeniser."""
    answer = Answer(address, {"model": "words", "input": value, "user": "somebody"})
    np.testing.assert_allclose(answer.rows, own(media_server, ["good morning"], normalize=True), rtol=1e-6)
    assert answer.json["usage"]["prompt_tokens"] == 2


def test_lists_of_token_ids_may_differ_in_length(address: str) -> None:
    """Each is padded, and none feels it."""
    together = Answer(address, {"model": "words", "input": [[5], [6, 7, 8]]})
    apart = [Answer(address, {"model": "words", "input": ids}).rows[0] for ids in ([5], [6, 7, 8])]
    np.testing.assert_allclose(together.rows, apart, rtol=1e-6)
    assert together.json["usage"]["total_tokens"] == 4


def test_dimensions_truncate_before_normalisation(address: str, media_server: RunningServer) -> None:
    """So that a truncated row has unit length too."""
    answer = Answer(address, {"model": "words", "input": TEXTS, "dimensions": 2})
    assert answer.rows == own(media_server, TEXTS, normalize=True, dimensions=2).tolist()


def test_normalize_false_leaves_the_rows_alone(address: str, media_server: RunningServer) -> None:
    """Not OpenAI's: for those who want what the backbone made."""
    answer = Answer(address, {"model": "words", "input": TEXTS, "normalize": False})
    assert answer.rows == own(media_server, TEXTS).tolist()


def test_no_texts_are_no_embeddings(address: str) -> None:
    """An empty batch is no error."""
    assert Answer(address, {"model": "words", "input": []}).rows == []


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
        pytest.param({"input": "x"}, (400, BAD, "model", INVALID), "model: Field required", id="no model"),
        pytest.param({"model": "words"}, (400, BAD, "input", INVALID), "input: Field required", id="no input"),
        pytest.param(
            {"model": "words", "input": "x", "truncate": True},
            (400, BAD, "truncate", INVALID),
            "truncate: Extra",
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
            "greater than or equal to 1",
            id="no dimensions",
        ),
        pytest.param(
            {"model": "words", "input": "x", "dimensions": 5},
            (400, BAD, "options.dimensions", INVALID),
            "this backbone has 1..4",
            id="dimensions",
        ),
        pytest.param(
            {"model": "words", "input": ["x", 1]}, (400, BAD, "input", INVALID), "not understood", id="mixed input"
        ),
        pytest.param(
            {"model": "words", "input": [0]}, (400, BAD, "input", INVALID), "not understood", id="padding as id"
        ),
        pytest.param(
            {"model": "words", "input": [True]}, (400, BAD, "input", INVALID), "not understood", id="true as id"
        ),
        pytest.param(
            {"model": "words", "input": [10**30]}, (400, BAD, "input", INVALID), "not understood", id="huge id"
        ),
        pytest.param(
            {"model": "words", "input": [[1], []]}, (400, BAD, "input", INVALID), "without token ids", id="no ids"
        ),
        pytest.param(
            {"model": "words", "input": [1] * 9},
            (413, BAD, "input", "LIMIT_EXCEEDED"),
            "of up to 9 token ids, at most 1024 rows of 8",
            id="too many ids",
        ),
        pytest.param(
            {"model": "words", "input": ["x"] * 1025},
            (413, BAD, "input", "LIMIT_EXCEEDED"),
            "1025 rows and 8200 elements, at most 1024 rows",
            id="too many texts",
        ),
        pytest.param(
            {"model": "words", "input": "\ud800"}, (400, BAD, "input", INVALID), "no valid Unicode", id="surrogate"
        ),
        pytest.param(
            {"model": "picture", "input": "x"},
            (400, BAD, None, "WRONG_INPUT_KIND"),
            "got texts, it takes images",
            id="another kind",
        ),
        pytest.param(
            {"model": "linear", "input": [1, 2]},
            (400, BAD, None, "WRONG_INPUT_KIND"),
            "takes no token ids",
            id="ids without text",
        ),
        pytest.param([], (400, BAD, None, INVALID), "the body: Input should be", id="no object"),
        pytest.param(b"{", (400, BAD, None, INVALID), "the body is no JSON", id="no JSON"),
        pytest.param(b"[" * 100_000, (400, BAD, None, INVALID), "the body is no JSON", id="nested too deep"),
        pytest.param(b"\xff", (400, BAD, None, INVALID), "the body is no JSON", id="no UTF-8"),
        pytest.param(b" " * 9 * 2**20, (413, BAD, None, "REQUEST_ENTITY_TOO_LARGE"), "Maximum request", id="too large"),
    ],
)
def test_a_bad_call_is_refused_in_openais_shape(address: str, body: Any, error: Any, words: str) -> None:
    """With the reasons of every other protocol as the code."""
    answer = Answer(address, body)
    assert (answer.error, words in answer.json["error"]["message"]) == (error, True), answer.json


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        pytest.param({"Content-Type": "text/plain"}, "expected 'application/json'", id="content type"),
        pytest.param({**JSON, "X-Request-Timeout": "soon"}, "expected seconds", id="timeout in words"),
        pytest.param({**JSON, "X-Request-Timeout": "nan"}, "expected seconds", id="timeout not a number"),
        pytest.param({**JSON, "X-Request-Timeout": "0"}, "expected seconds", id="no time"),
    ],
)
def test_headers_are_checked(address: str, headers: dict[str, str], words: str) -> None:
    """A page in a browser may send text/plain to the loopback unasked, never JSON."""
    answer = Answer(address, {"model": "words", "input": "x"}, headers=headers)
    assert (answer.error, words in answer.json["error"]["message"]) == ((400, BAD, None, INVALID), True)


def test_a_compressed_body_is_not_unpacked(address: str) -> None:
    """It could be a bomb."""
    body = gzip.compress(json.dumps({"model": "words", "input": "x"}).encode())
    answer = Answer(address, body, headers={**JSON, "Content-Encoding": "gzip"})
    assert (answer.error, "no JSON" in answer.json["error"]["message"]) == ((400, BAD, None, INVALID), True)


def test_a_backbone_of_many_slashes_is_a_model(address: str) -> None:
    """Names are taken whole."""
    answer = Answer(address, {"model": "text/embedding/words/x", "input": "x"})
    assert "'text/embedding/words/x'" in answer.json["error"]["message"]


@pytest.fixture()
def slow_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server whose engine the test may hold up."""
    with serving("words", registry=test_registry, http_port=0) as running:
        yield running


def test_a_late_call_is_given_up(slow_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own limit, and what waited for it is dropped before the device."""
    served = slow_server.server.catalogue.entry("words").ready().served
    taken = queue.SimpleQueue[Any]()
    monkeypatch.setattr(served.batcher, "submit", taken.put)
    answer = Answer(
        slow_server.server.http_address,
        {"model": "words", "input": "x"},
        headers={**JSON, "X-Request-Timeout": "0.05"},
    )
    assert answer.error == (504, "server_error", None, "DEADLINE_EXCEEDED")
    assert taken.get(timeout=10).done.cancelled()


def test_a_caller_who_hangs_up_is_dropped(slow_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for never reaches the device."""
    served = slow_server.server.catalogue.entry("words").ready().served
    taken, dropped = queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()

    def submit(item: Any) -> None:
        item.done.add_done_callback(dropped.put)
        taken.put(item)

    monkeypatch.setattr(served.batcher, "submit", submit)
    connection = http.client.HTTPConnection(str(slow_server.server.http_address), timeout=20)
    connection.request("POST", "/v1/embeddings", json.dumps({"model": "words", "input": "x"}), JSON)
    taken.get(timeout=10)
    connection.close()
    assert dropped.get(timeout=10).cancelled()


def test_a_full_queue_says_when_to_try_again(slow_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """429, which OpenAI's clients wait on."""
    monkeypatch.setattr(slow_server.server.embedder.in_flight, "_has_room", lambda _size: False)
    answer = Answer(slow_server.server.http_address, {"model": "words", "input": "x"})
    assert (answer.error, answer.headers["Retry-After"]) == ((429, "rate_limit_error", None, "OVERLOADED"), "1")


def test_an_unforeseen_fault_is_an_id_and_no_detail(
    slow_server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text goes to the log."""

    def fail(_request: Any, _caller: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(slow_server.server.embedder, "embed", fail)
    answer = Answer(slow_server.server.http_address, {"model": "words", "input": "x"})
    assert answer.error == (500, "server_error", None, "INTERNAL")
    assert ("secret" in answer.json["error"]["message"], "secret detail" in caplog.text) == (False, True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_embeds(address: str, media_server: RunningServer) -> None:
    """The line that docs/protocols.md shows."""
    body = json.dumps({"model": WORDS, "input": "good morning"})
    line = ["curl", "-sS", "--fail", f"http://{address}/v1/embeddings", "-H", "Content-Type: application/json"]
    answer = subprocess.run([*line, "-d", body], check=True, capture_output=True, timeout=20).stdout
    assert json.loads(answer)["data"][0]["embedding"] == own(media_server, ["good morning"], normalize=True)[0].tolist()
