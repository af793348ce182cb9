"""The body of a request: received within the quotas, parsed at a bounded cost, checked field by field."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from midrib.server._field_errors import field_errors
from midrib.server._http.call import HttpCall
from midrib.wire import InvalidInputError, LimitExceededError

T = TypeVar("T")
FieldsT = TypeVar("FieldsT", bound="Fields")

MAX_BODY_BYTES = 8 * 2**20
# Larger bodies are parsed in a thread: up to here parsing takes less than a millisecond.
_INLINE_BYTES = 2**14
# json.loads builds all strings, arrays and objects in one call that holds the GIL: 2**15 of them take a few
# milliseconds. Numbers are cheaper, because each calls back into Python, and the event loop can run in between. But the
# garbage collector visits millions of them without a pause.
MAX_VALUES = 2**15
MAX_COMMAS = 2**20
# The time that Python needs for an integer grows with the square of its digits.
_MAX_DIGITS = 400
_COUNTED_AT_ONCE = 2**16
_FREED_AT_ONCE = 2**12
# How long a thread keeps the interpreter while a large body is read. By default it is 5 ms, and answering a call of
# another client takes several switches.
_SWITCH_S = 0.0005
_earlier_intervals: list[float] = []
# Further fields can only be unknown ones, and pydantic makes an error for each.
_MAX_FIELDS = 64
_MAX_QUOTED = 100


async def receive(request: web.Request, call: HttpCall, *, limit: int) -> bytearray:
    """Return the body of a request; while it arrives, its bytes count in the quotas of the call.

    limit: the largest body, in bytes.
    Raises HTTPUnsupportedMediaType for a compressed body, HTTPRequestEntityTooLarge for a larger one, OverloadedError
    if the quotas have no room for it.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        # A few compressed kilobytes may unpack to gigabytes.
        raise web.HTTPUnsupportedMediaType(
            text=f"Content-Encoding is {encoding[:40]!r}, and compressed bodies are not read: send it uncompressed"
        )
    if (declared := request.content_length or 0) > limit:
        raise _too_large(declared, limit)
    body = bytearray()
    async for chunk in request.content.iter_any():
        if len(body) + len(chunk) > limit:
            raise _too_large(len(body) + len(chunk), limit)
        call.hold(len(body) + len(chunk))
        body += chunk
        # Let other tasks run: aiohttp returns buffered chunks at once, and a chunk may have one byte.
        await asyncio.sleep(0)
    return body


async def receive_small(request: web.Request, *, limit: int) -> bytearray:
    """Return a small body, which counts in no quota: tokens that may not embed have none.

    Raises HTTPRequestEntityTooLarge for more than `limit` bytes.
    """
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise _too_large(len(body), limit)
    return body


def _too_large(size: int, limit: int) -> web.HTTPRequestEntityTooLarge:
    text = f"the body has {size} bytes or more, at most {limit} are accepted: send fewer inputs in each call"
    return web.HTTPRequestEntityTooLarge(limit, size, text=text)


def require_media_type(request: web.Request, expected: str) -> None:
    """Raise HTTPUnsupportedMediaType unless the body is declared as `expected`.

    A web page may send a few other types to a loopback address without asking the user.
    """
    if request.content_type != expected:
        raise web.HTTPUnsupportedMediaType(
            text=f"Content-Type is {request.content_type[:_MAX_QUOTED]!r}, expected {expected!r}: set that header"
        )


async def parse_fields(kind: type[FieldsT], body: bytes | bytearray) -> FieldsT:
    """Return the JSON object of a body as `kind`; a large body is read beside the event loop.

    Raises the errors of `loads` and `read_fields`.
    """
    return await off_loop(len(body), lambda: _read(kind, body))


def _read(kind: type[FieldsT], body: bytes | bytearray) -> FieldsT:
    value = loads(body)
    try:
        return read_fields(kind, value)
    except InvalidInputError:
        free(value)
        raise


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Return the result of `work`, which handles `size` bytes; run it in a thread if they are many."""
    if size <= _INLINE_BYTES:
        return work()
    with _frequent_switches():
        return await asyncio.to_thread(work)


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let the event loop have the interpreter ten times as often as by default, while a thread reads a large body."""
    _earlier_intervals.append(sys.getswitchinterval())
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(_earlier_intervals.pop())


def free(value: Any) -> None:
    """Empty the lists and objects of a body in steps, because freeing a million numbers at once takes 20 ms."""
    remaining = [value]
    while remaining:
        entry = remaining.pop()
        if isinstance(entry, dict):
            remaining += entry.values()
            entry.clear()
        elif isinstance(entry, list) and entry:
            remaining.append(entry)
            remaining += [inner for inner in entry[-_FREED_AT_ONCE:] if isinstance(inner, dict | list)]
            del entry[-_FREED_AT_ONCE:]


def loads(body: bytes | bytearray) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises InvalidInputError for any other text, for an object of too many fields or with a field that occurs twice,
    LimitExceededError for more than MAX_VALUES strings, arrays and objects, or more than MAX_COMMAS elements.
    """
    values, commas = count_values(body)
    if values > MAX_VALUES:
        raise LimitExceededError(
            f"the body has about {values} strings, arrays and objects, at most {MAX_VALUES} are accepted: split it"
        )
    if commas > MAX_COMMAS:
        raise LimitExceededError(
            f"the body has more than {commas} numbers and other elements, at most {MAX_COMMAS} are accepted: split it"
        )
    try:
        return json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_floating,
            parse_constant=_constant,
        )
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is not valid JSON ({error}): send a JSON object in UTF-8") from error


def count_values(body: bytes | bytearray) -> tuple[int, int]:
    """Return how many strings, arrays and objects a JSON text holds, and how many commas between elements.

    Nothing is built. The counts are exact for valid JSON, and json.loads builds no more than that of an invalid text.
    """
    quotes = brackets = commas = 0
    rest = b""
    for start in range(0, len(body), _COUNTED_AT_ONCE):
        part = rest + body[start : start + _COUNTED_AT_ONCE]
        # An escape that is cut in two is left to the next part.
        cut = len(part) - (len(part) - len(part.rstrip(b"\\"))) % 2
        part, rest = part[:cut], part[cut:]
        between = part.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        outside = b"".join(between[quotes % 2 :: 2])
        quotes += len(between) - 1
        brackets += outside.count(b"[") + outside.count(b"{")
        commas += outside.count(b",")
    return brackets + (quotes + 1) // 2, commas


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises InvalidInputError for a repeated field, or too many."""
    if len(pairs) > _MAX_FIELDS:
        raise InvalidInputError(
            f"the body has an object of {len(pairs)} fields, expected at most {_MAX_FIELDS}: remove the unknown ones"
        )
    fields = dict(pairs)
    if len(fields) < len(pairs):
        # A proxy may have checked the first value, while json.loads keeps the last.
        name = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))[:_MAX_QUOTED]
        raise InvalidInputError(f"the body has the field {name!r} twice in one object: send it once", field=name)
    return fields


def _integer(digits: str) -> int:
    _check_digits(digits)
    return int(digits)


def _floating(digits: str) -> float:
    """Return a float of JSON. Raises ValueError for an infinite one."""
    _check_digits(digits)
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:_MAX_QUOTED]} is too large for a number")
    return number


def _constant(name: str) -> float:
    """Raise ValueError for NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} is not a number in JSON")


def _check_digits(digits: str) -> None:
    """Raise ValueError for a number with too many digits."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} characters, at most {_MAX_DIGITS} are accepted")


class Fields(BaseModel):
    """A JSON object. An unknown field is an error, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class AnswerFields(BaseModel):
    """The JSON object of an answer, for its description in the OpenAPI document."""

    model_config = ConfigDict(extra="forbid", strict=True)


def read_fields(kind: type[FieldsT], value: Any) -> FieldsT:
    """Return a body of this kind. A field that is null is absent.

    Raises InvalidInputError for a value that is not an object of these fields.
    """
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if field is not None}
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = field_errors(error, kind, "the body")[0]
        raise InvalidInputError(first.sentence, field=first.place or None) from error
