"""The name of the backbone that a call asks for, read from the bytes of its first message."""

from __future__ import annotations

from typing import Final

from midrib.wire import InvalidInputError, read_varint

# A message has few fields; one with more is refused before they cost time.
_MAX_FIELDS: Final = 256
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# The fields that lead to the name: EmbedStreamRequest.open.backbone, and requests whose name is not their first field.
_PATHS: Final = {
    "EmbedStream": (1, 1),
    "RepositoryModelLoad": (2,),
    "RepositoryModelUnload": (2,),
}
_FIRST_FIELD: Final = (1,)
_WITHOUT_NAME: Final = frozenset({"ListBackbones", "ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"})


def requested_name(method: str, message: bytes) -> str:
    """Return the name in the first message of a call; "" if it has none.

    method: the path, "/package.Service/Method".
    Raises InvalidInputError if the bytes are not a message, or have more fields than a message of ours.
    """
    last = method.rpartition("/")[2]
    if last in _WITHOUT_NAME:
        return ""
    content = message
    try:
        for field in _PATHS.get(last, _FIRST_FIELD):
            content = _field(content, field)
        return content.decode()
    except (IndexError, ValueError) as error:
        raise InvalidInputError(f"the first message of {method} cannot be read: {error}") from error


def _field(message: bytes, number: int) -> bytes:
    """Return the bytes of a field; empty if the message lacks it. Raises ValueError if it is cut off."""
    at = 0
    for _ in range(_MAX_FIELDS):
        if at >= len(message):
            return b""
        key, at = read_varint(message, at)
        size, start = _extent(message, at, kind=key & 7)
        if start + size > len(message):
            raise ValueError(f"a field ends after byte {start + size}, expected at most {len(message)} bytes")
        if key == number << 3 | _BYTES:
            return message[start : start + size]
        at = start + size
    raise ValueError(f"it has more than {_MAX_FIELDS} fields")


def _extent(message: bytes, at: int, *, kind: int) -> tuple[int, int]:
    """Return the size of a field's content, and where it begins. Raises ValueError for an unknown wire type."""
    if kind == _BYTES:
        return read_varint(message, at)
    if kind == _VARINT:
        return 0, read_varint(message, at)[1]
    if kind in (_FIXED64, _FIXED32):
        return (8 if kind == _FIXED64 else 4), at
    raise ValueError(f"got a field of wire type {kind}, expected 0, 1, 2 or 5")
