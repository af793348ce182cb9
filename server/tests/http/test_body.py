"""The cost of a body: counted before it is parsed, in the quotas from the first byte to the last of the answer."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from midrib.registry import Registry
from midrib.server._console.backbones import LoadBody, UnloadBody
from midrib.server._http.body import (
    MAX_BODY_BYTES,
    MAX_COMMAS,
    MAX_VALUES,
    Fields,
    count_values,
    free,
    loads,
    off_loop,
    parse_fields,
    read_fields,
)
from midrib.server._http.embeddings import EmbeddingsBody
from midrib.server._http.inference import InferBody
from midrib.server._http.similarity import SimilarityBody
from midrib.server.testing import RunningServer, serving
from midrib.wire import InvalidInputError, LimitExceededError
from server.tests.http.calls import JSON, Answer, freed

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", '\\"', "[,{", "\\\\" * 40]),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


def counted(value: Any) -> int:
    """The number of strings (keys included), lists and dicts in a value."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(counted, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(counted, value))
    return int(isinstance(value, str))


def list_fields(kind: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a body, and of the fields of the objects in it; "0" is the first entry of a list."""
    for name, field in kind.model_fields.items():
        yield (*path, name)
        inner = [entry for entry in (field.annotation, *get_args(field.annotation)) if isinstance(entry, type)]
        for entry in inner:
            if issubclass(entry, BaseModel):
                yield from list_fields(entry, (*path, name, *(["0"] if entry is not field.annotation else [])))


def commas(value: Any) -> int:
    """The number of commas between the elements of the lists and dicts in a value."""
    if not isinstance(value, list | dict):
        return 0
    elements = value.values() if isinstance(value, dict) else value
    return max(0, len(value) - 1) + sum(map(commas, elements))


@given(value=VALUES, size=st.integers(1, 9))
def test_values_are_counted_without_parsing(value: Any, size: int) -> None:
    """Strings with quotes, escapes and brackets included, wherever the text is cut to be counted."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("midrib.server._http.body._COUNTED_AT_ONCE", size)
        assert count_values(text) == (counted(value), commas(value))


@pytest.mark.parametrize(
    "element", [pytest.param(text, id=text.decode()) for text in (b'""', b"[]", b"{}", b'"x"', b'{"a":1}', b"[[]]")]
)
async def test_too_many_values_are_refused_before_any_is_built(element: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an object in memory of many times its bytes, and json.loads makes them all without a pause."""
    monkeypatch.setattr("midrib.server._http.body.json.loads", None)
    with pytest.raises(LimitExceededError, match=f"at most {MAX_VALUES} are accepted: split it"):
        loads(b"[" + b",".join([element] * MAX_VALUES) + b"]")


async def test_too_many_numbers_are_refused_before_any_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of numbers hold up the event loop while the garbage collector visits them."""
    monkeypatch.setattr("midrib.server._http.body.json.loads", None)
    row = b"[" + b",".join([b"5"] * 2048) + b"]"
    with pytest.raises(LimitExceededError, match=f"numbers and other elements, at most {MAX_COMMAS} are accepted"):
        loads(b"[" + b",".join([row] * 600) + b"]")


async def test_a_text_full_of_brackets_is_one_value() -> None:
    """Texts are not mistaken for lists of values."""
    text = '[{",' * MAX_VALUES + "\\"
    assert loads(json.dumps(text).encode()) == text


def test_an_object_of_too_many_fields_is_refused() -> None:
    """Wherever it is: pydantic makes an error for each unknown field, and 32,000 of them took a second."""
    fields = ",".join(f'"{number}":1' for number in range(65))
    with pytest.raises(InvalidInputError, match="an object of 65 fields, expected at most 64: remove the unknown ones"):
        loads(b'{"inputs":[{%s}]}' % fields.encode())


def test_a_field_that_occurs_twice_is_refused() -> None:
    """A proxy may have checked the first one, and Python's parser would return the last."""
    with pytest.raises(InvalidInputError, match="has the field 'model' twice in one object: send it once"):
        loads(b'{"model":"a","input":1,"model":"b"}')


ELEMENTS: list[Any] = [1, "", [], None]
BODIES = [
    pytest.param(kind, path, element, id=f"{kind.__name__}.{'.'.join(path)} of {element!r}")
    for kind in (EmbeddingsBody, InferBody, LoadBody, SimilarityBody, UnloadBody)
    for path in list_fields(kind)
    for element in ELEMENTS
]


@pytest.mark.parametrize(("kind", "path", "element"), BODIES)
def test_wrong_elements_of_a_list_cost_few_errors(kind: type[Fields], path: tuple[str, ...], element: Any) -> None:
    """In every field: an error for each of a million numbers took 40 seconds and 1 GiB."""
    value: Any = [element] * 2000
    for name in reversed(path):
        value = [value] if name == "0" else {name: value}
    with pytest.raises(InvalidInputError, match=".") as refused:
        read_fields(kind, value)
    assert isinstance(refused.value.__cause__, ValidationError)
    assert refused.value.__cause__.error_count() < 20


@pytest.mark.parametrize(
    "number", [pytest.param(b"1" * 401, id="integer"), pytest.param(b"0." + b"1" * 399, id="float")]
)
async def test_a_very_long_number_is_refused(number: bytes) -> None:
    """The time to read an integer grows with the square of its digits."""
    with pytest.raises(InvalidInputError, match="a number has 401 characters, at most 400 are accepted"):
        loads(number)


@pytest.mark.parametrize("text", [pytest.param(text, id=text.decode()) for text in (b"NaN", b"-Infinity", b"1e999")])
async def test_a_number_is_finite(text: bytes) -> None:
    """Python's parser would accept more than JSON allows."""
    with pytest.raises(InvalidInputError, match="is not valid JSON"):
        loads(text)


@pytest.mark.parametrize(
    "body", [b'{"name": 1}', b'{"name": 1, "arguments": {}}' + b" " * 2**15], ids=["small", "large"]
)
async def test_fields_are_checked_where_the_body_is_parsed(body: bytes) -> None:
    """Checking a million numbers takes as long as parsing them."""
    with pytest.raises(InvalidInputError, match="name is 1, expected a string"):
        await parse_fields(LoadBody, body)


async def test_a_large_body_is_parsed_beside_the_event_loop() -> None:
    """The loop continues while a thread parses: here until the thread is given the result of a later callback."""
    loop = asyncio.get_running_loop()
    answered = asyncio.run_coroutine_threadsafe
    result = await off_loop(MAX_BODY_BYTES, lambda: answered(asyncio.sleep(0, "by the loop"), loop).result(10))
    assert result == "by the loop"


async def test_the_event_loop_runs_often_beside_a_large_body() -> None:
    """Answering another client takes several switches of the interpreter, of 5 ms each by default."""
    before = sys.getswitchinterval()
    during = await asyncio.gather(*[off_loop(MAX_BODY_BYTES, sys.getswitchinterval) for _ in range(3)])
    assert (max(during), sys.getswitchinterval()) == (0.0005, before)


def test_the_lists_of_a_body_are_freed_in_steps() -> None:
    """However deep they are nested; a body that is refused is freed too."""
    rows, numbers = [[1] * 512 for _ in range(100)], [2] * 10_000
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    free({"rows": rows, "numbers": numbers, "deep": deep})
    assert (rows, numbers, deep) == ([], [], [])


@pytest.fixture()
def small_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server with room for 100 kB in flight."""
    with serving("words", registry=test_registry, http_port=0, max_in_flight_bytes=100_000) as running:
        yield running


def connected(running: RunningServer) -> socket.socket:
    host, _, port = str(running.server.http_address).partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_a_body_counts_while_it_arrives(small_server: RunningServer) -> None:
    """Two half-sent bodies that do not fit together: the second is refused, and the room returns with the first."""
    half = HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 60_000
    with connected(small_server) as first:
        first.sendall(half)
        answers = []
        with connected(small_server) as second:
            second.sendall(half)
            answers.append(second.recv(65536)[:12])
        first.sendall(b" " * 30_000)
        answers.append(first.recv(65536)[:12])
    assert sorted(answers) == [b"HTTP/1.1 400", b"HTTP/1.1 429"]
    assert Answer(small_server.server.http_address, {"model": "words", "input": "x"}).status == 200


def test_a_body_larger_than_the_room_is_accepted_alone(small_server: RunningServer) -> None:
    """As for every other request: otherwise it could never be served."""
    body = json.dumps({"model": "words", "input": "x"}).encode() + b" " * 200_000
    assert Answer(small_server.server.http_address, body).status == 200


def test_a_slow_body_in_chunks_is_given_up(small_server: RunningServer) -> None:
    """The limit of the caller counts its own sending."""
    with connected(small_server) as connection:
        connection.sendall(HEAD + b"X-Request-Timeout: 0.05\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 504")


@pytest.fixture()
def impatient_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server that gives a client one second to read an answer of 1,024 numbers a row."""
    wide = {"name": "words", "arguments": {"num_features": 1024}}
    with serving(wide, registry=test_registry, http_port=0, max_unread_s=1) as running:
        yield running


def test_an_answer_that_is_not_read_is_given_up(impatient_server: RunningServer) -> None:
    """Its connection ends after max_unread_s, and it counts in the quotas until then."""
    connection = http.client.HTTPConnection(str(impatient_server.server.http_address))
    connection.sock = stream = connected(impatient_server)
    connection.request("POST", "/v1/embeddings", json.dumps({"model": "words", "input": ["x"] * 1024}), JSON)
    response = connection.getresponse()
    bytes_held = impatient_server.server.embedder.in_flight.held
    impatient_server.run(freed(impatient_server))
    assert bytes_held > 1024 * 1024 * 4
    with stream, response, pytest.raises(http.client.IncompleteRead, match="more expected"):
        response.read()
