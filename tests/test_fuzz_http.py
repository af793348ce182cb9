"""Any bytes to the HTTP port of a live server: always a status, errors in OpenAI's shape, and the server continues.

benchmarks/soak/fuzz.py runs the same checks for as long as you choose.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput, TextInput
from midrib.server.testing import RunningServer, serving

REGISTRY = Registry("http fuzz")
FUZZ = settings(max_examples=150, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
JSON = {"Content-Type": "application/json"}
POISON = 105  # beyond the ids that the server warms up with


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class Words(nn.Module):
    """The sum of the words' vectors; the poisonous id raises."""

    raised = 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(110, 4, padding_idx=0)

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1 + sum(word.encode()) % 60 for word in text.split()][:8], False) for text in texts]

    def forward(self, ids: Tensor) -> Tensor:
        if bool((ids == POISON).any()):
            Words.raised += 1
            raise RuntimeError("secret of the module, /etc/shadow")
        vectors: Tensor = self.table(ids)
        return vectors.sum(1)


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 4


@REGISTRY(name="plain", namespace="test/embedding", input=TensorInput((2,)))
def load_plain() -> tuple[nn.Module, int]:
    return nn.Linear(2, 3), 3


# --- the grammar ---

NAMES = st.sampled_from(["words", "text/embedding/words", "plain", "word", "", "../../etc/passwd", "x" * 5000])
TEXTS = st.text(max_size=20) | st.sampled_from(["good morning", "\ud800", "x " * 400])
NUMBERS = st.integers(-2, 120) | st.just(POISON) | st.sampled_from([2**31, 2**63, 10**400, -(2**70)])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXTS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=8,
)
INPUTS = (
    TEXTS
    | st.lists(TEXTS, max_size=5)
    | st.lists(NUMBERS, max_size=10)
    | st.lists(st.lists(NUMBERS, max_size=10), max_size=5)
)
BODIES = st.fixed_dictionaries(
    {"model": NAMES | ANYTHING, "input": INPUTS | ANYTHING},
    optional={
        "encoding_format": st.sampled_from(["float", "base64", "hex"]) | ANYTHING,
        "dimensions": NUMBERS | ANYTHING,
        "user": TEXTS,
        "normalize": st.booleans() | ANYTHING,
        "\ud800": ANYTHING,
    },
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["input", "texts", "images"]) | ANYTHING,
        "shape": st.lists(st.sampled_from([0, 1, 2, -1, 2**62]), max_size=4) | ANYTHING,
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL", "FP16", "x"]) | ANYTHING,
        "data": INPUTS | st.lists(st.floats(), max_size=4) | ANYTHING,
    }
)
INFER_BODIES = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2) | ANYTHING},
    optional={"id": TEXTS, "parameters": st.dictionaries(st.sampled_from(["normalize", "dimensions", "x"]), ANYTHING)},
)
SIMILARITY_BODIES = st.fixed_dictionaries(
    {"inputs": st.fixed_dictionaries({"source_sentence": TEXTS | ANYTHING, "sentences": INPUTS | ANYTHING})},
    optional={"model": NAMES | ANYTHING},
)
GOOD = {"model": "words", "input": ["good morning"]}
HEADERS = st.fixed_dictionaries(
    {"Content-Type": st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", ""])},
    optional={
        "X-Request-Timeout": st.sampled_from(["1e-9", "nan", "-1", "inf", "x", "9" * 400]),
        "Authorization": st.sampled_from(["Bearer x", "Basic", ""]),
        "Content-Encoding": st.sampled_from(["gzip", "zstd", "br"]),
        "Expect": st.sampled_from(["100-continue", "the unexpected"]),
    },
)
PATHS = [
    *["/v1/embeddings"] * 6,
    *["/v2/models/plain/infer", "/v2/models/words/infer", "/similarity"] * 2,
    *["/v1/models/words", "/v1/models", "/v2/models/words", "/docs", "/openapi.json", "/readyz", "/metrics"],
    *["/v1/models/%00", "//", "/%"],
]


class Post(NamedTuple):
    """One request by a client that speaks HTTP."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


@st.composite
def posts(draw: st.DrawFn) -> Post:
    data = bytearray(json.dumps(draw(BODIES | INFER_BODIES | SIMILARITY_BODIES | ANYTHING)).encode())
    damage = draw(st.sampled_from(["none", "none", "none", "cut", "insert", "deep"]))
    place = draw(st.integers(0, len(data)))
    if damage == "cut":
        del data[place:]
    elif damage == "insert":
        data[place:place] = draw(st.binary(max_size=8))
    elif damage == "deep":
        data = bytearray(b'{"model":"words","input":' + b"[" * 50_000)
    headers = draw(st.just(JSON) | HEADERS)
    return Post(
        draw(st.sampled_from(["POST", "POST", "POST", "GET", "PUT"])),
        draw(st.sampled_from(PATHS)),
        bytes(data),
        headers,
    )


def spoken() -> st.SearchStrategy[bytes]:
    """All bytes of a connection: good requests, cut, overwritten or added to; or random bytes."""
    body = json.dumps(GOOD).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    chunked = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n\r\n"
    good = head.encode() + b"\r\n" + body
    pieces = [
        good,
        chunked,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    ]
    complete = st.lists(st.sampled_from(pieces), min_size=1, max_size=3).map(b"".join)
    cut = st.tuples(complete, st.integers(0, 300), st.binary(max_size=12), st.integers(0, 300))
    return cut.map(lambda four: four[0][: four[1]] + four[2] + four[0][four[3] :]) | st.binary(max_size=80)


# --- the properties ---

_LEAKS = re.compile(r"Traceback|secret|shadow|site-packages|object at 0x|\.py\b|\w(Error|Exception)\b")
_STATUSES = {200, 400, 401, 404, 405, 413, 415, 417, 429, 501, 503, 504}


class Subject:
    """A live server under fuzz."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.address = str(server.server.http_address)

    def check_post(self, post: Post) -> None:
        """The answer is JSON: a result, or an error in OpenAI's shape; 500 only if the module raised."""
        raised = Words.raised
        status, body = self.ask(post)
        assert status in _STATUSES | ({500} if Words.raised > raised else set()), (status, body)
        assert not _LEAKS.search(body)
        if status not in (200, 417) and post.path.startswith(("/v1", "/v2")):  # aiohttp answers 417
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        self.check_unharmed()

    def check_spoken(self, spoken: bytes) -> None:
        """The answer to any bytes is HTTP or nothing, and shows nothing of the server's code."""
        host, _, port = self.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(spoken)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert not answer or answer.startswith(b"HTTP/1.")
        assert b" 500 " not in answer[:40]
        assert not _LEAKS.search(answer.decode(errors="replace"))
        self.check_unharmed()

    def check_unharmed(self) -> None:
        """A good request is answered, and nothing is left in flight."""
        for _ in range(2000):
            status, body = self.ask(Post("POST", "/v1/embeddings", json.dumps(GOOD).encode(), JSON))
            assert (status, len(json.loads(body)["data"][0]["embedding"])) == (200, 4)
            idle = all(served.idle for served in self.server.server.catalogue.served())
            if idle and not self.server.server.embedder.in_flight.held:
                return
        pytest.fail("items stay in flight")

    def ask(self, post: Post) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=20)
        try:
            connection.request(post.method, post.path, post.body, post.headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@contextmanager
def subjected() -> Iterator[Subject]:
    """A server to fuzz."""
    with serving("words", "plain", registry=REGISTRY, http_port=0, http_token_ids=True) as running:
        yield Subject(running)


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    with subjected() as running:
        yield running


@FUZZ
@given(post=posts())
def test_any_request_gets_a_status(subject: Subject, post: Post) -> None:
    """Any JSON, any headers, any path: 500 only for the poisonous id."""
    subject.check_post(post)


@FUZZ
@given(said=spoken())
def test_any_bytes_get_http_or_nothing(subject: Subject, said: bytes) -> None:
    """The bytes may be other than HTTP."""
    subject.check_spoken(said)
