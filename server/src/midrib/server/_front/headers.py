"""The headers of a gRPC call: read from HPACK with a cache, and the answer's, written without a dynamic table.

Sources: RFC 7541, and "gRPC over HTTP/2" of the gRPC project.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import grpc
from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from midrib.server._front.frames import ErrorCode, Http2Error, StreamError

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

# A field counts with this many bytes beside its name and value (RFC 9113, 6.5.2).
_FIELD_BYTES = 32
_MAX_CACHED_BYTES = 32 * 1024
_CONNECTION_FIELDS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PROTOCOL_FIELDS = frozenset({b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_DIGITS = 8
# Updates of the table's size that may begin a block (RFC 7541, 4.2). hpack takes any number of them.
_MAX_TABLE_UPDATES = 2
# Printable ASCII except the percent sign goes into grpc-message unchanged.
_PLAIN_IN_MESSAGE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class RequestHead(NamedTuple):
    """The headers of a call.

    metadata: the client's own fields; values of names that end in "-bin" are bytes.
    encoding: the compression of messages that are marked as compressed.
    refusal: the status and the message that end the call at once; None if it may start.
    http_status: the answer's status; not 200 if the request is not a gRPC call.
    """

    path: str
    metadata: Metadata = ()
    timeout_s: float | None = None
    encoding: str = "identity"
    refusal: tuple[grpc.StatusCode, str] | None = None
    http_status: int = 200


class HeadDecoder:
    """Reads the header blocks of one connection.

    Most blocks of a connection are equal, and do not change HPACK's table: their heads are kept until it changes.
    """

    def __init__(self, max_metadata_bytes: int) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        # Blocks up to four times the limit are read, so that the call alone is refused.
        self._decoder = Decoder(max_header_list_size=4 * max_metadata_bytes)
        self._cache: dict[bytes, RequestHead] = {}
        self._cached_bytes = 0

    def cached(self, block: bytes) -> RequestHead | None:
        """Return the head of an earlier, equal block; None if the block has to be decoded."""
        return self._cache.get(block)

    def head(self, block: bytes) -> RequestHead:
        """Return the head of a call. Raises the errors of `fields`, and StreamError for headers that are not HTTP/2."""
        before = self._newest_entry()
        fields = self.fields(block)
        changed = self._newest_entry() is not before
        head = self._parsed(fields)
        resizes = block[0] & 0xE0 == 0x20  # an update of the table's size, which must not be skipped
        if not changed and not resizes and head.refusal is None:
            self._keep(block, head)
        return head

    def _keep(self, block: bytes, head: RequestHead) -> None:
        self._cached_bytes += len(block)
        if self._cached_bytes > _MAX_CACHED_BYTES:
            self._cache.clear()
            self._cached_bytes = len(block)
        self._cache[block] = head

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return names and values of headers or trailers.

        Raises Http2Error for bytes that are not HPACK, or too many fields.
        """
        if _table_updates(block) > _MAX_TABLE_UPDATES:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, "too_many_table_updates")
        before = self._newest_entry()
        try:
            fields: list[tuple[bytes, bytes]] = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "headers_too_large") from error
        except (HPACKError, IndexError, ValueError) as error:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, "invalid_header_block") from error
        if self._newest_entry() is not before:  # kept blocks may now mean other fields
            self._cache.clear()
            self._cached_bytes = 0
        return fields

    def _newest_entry(self) -> object:
        entries = self._decoder.header_table.dynamic_entries
        return entries[0] if entries else None

    def _parsed(self, fields: list[tuple[bytes, bytes]]) -> RequestHead:
        size = sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields)
        pseudo, regular = _separated(fields)
        path = _text(pseudo.get(b":path", b""))
        if pseudo.get(b":method") != b"POST":
            return RequestHead(path, refusal=(grpc.StatusCode.UNKNOWN, "gRPC calls use POST"), http_status=405)
        protocol = {name: value for name, value in regular if name in _PROTOCOL_FIELDS}
        if not protocol.get(b"content-type", b"").startswith(b"application/grpc"):
            return RequestHead(path, refusal=(grpc.StatusCode.UNKNOWN, "expected application/grpc"), http_status=415)
        if size > self._max_metadata_bytes:
            message = f"the headers have {size} bytes, at most {self._max_metadata_bytes} are accepted"
            return RequestHead(path, refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, message))
        return RequestHead(
            path,
            tuple(pair for name, value in regular if name not in _PROTOCOL_FIELDS for pair in _metadata(name, value)),
            _timeout_s(protocol.get(b"grpc-timeout")),
            _text(protocol.get(b"grpc-encoding", b"identity")),
        )


def _table_updates(block: bytes) -> int:
    """Return the number of updates of the table's size that begin a block. Stops counting beyond the limit."""
    count = at = 0
    while count <= _MAX_TABLE_UPDATES and at < len(block) and block[at] & 0xE0 == 0x20:
        count += 1
        is_long = block[at] & 0x1F == 0x1F
        at += 1
        while is_long and at < len(block):
            is_long = bool(block[at] & 0x80)
            at += 1
    return count


def _separated(fields: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Return the fields whose names begin with ":", and the others. Raises StreamError for fields against HTTP/2."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in pseudo:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, f"pseudo-header field {name[:40]!r} is repeated or late")
            pseudo[name] = value
        elif not name or name != name.lower() or name in _CONNECTION_FIELDS or _has_control(value):
            raise StreamError(ErrorCode.PROTOCOL_ERROR, f"header field {name[:40]!r} is not allowed in HTTP/2")
        else:
            regular.append((name, value))
    if not pseudo.get(b":path") or not pseudo.get(b":method"):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, f"a pseudo-header field is missing beside {sorted(pseudo)}")
    return pseudo, regular


def _has_control(value: bytes) -> bool:
    return b"\0" in value or b"\r" in value or b"\n" in value


def _metadata(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    """Return a header field as metadata: several pairs for binary values that a proxy has joined by commas.

    Raises StreamError for a binary field that is not base64.
    """
    if not name.endswith(b"-bin"):
        return [(_text(name), _text(value))]
    try:
        return [(_text(name), _decoded(part.strip())) for part in value.split(b",")]
    except binascii.Error as error:
        raise StreamError(ErrorCode.PROTOCOL_ERROR, f"binary header field {name[:40]!r} is not base64") from error


def _decoded(value: bytes) -> bytes:
    """Return the bytes of base64 with or without padding. Raises binascii.Error for other text."""
    return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _timeout_s(value: bytes | None) -> float | None:
    """Return the seconds of grpc-timeout; None for a value that is not one, as gRPC's libraries do."""
    if value is None or not value[:-1].isdigit() or len(value) > _MAX_TIMEOUT_DIGITS + 1:
        return None
    unit_s = _UNITS_S.get(value[-1:])
    return None if unit_s is None else int(value[:-1]) * unit_s


def response_head() -> bytes:
    """Return the header block that begins an answer."""
    return _RESPONSE_HEAD


def trailers(code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Return the header block that ends an answer."""
    fields = [_field("grpc-status", str(code.value[0]))]
    if message:
        fields.append(_field("grpc-message", quote(message, safe=_PLAIN_IN_MESSAGE)))
    return b"".join((*fields, *(_field(name, value) for name, value in metadata)))


def only_trailers(http_status: int, block: bytes) -> bytes:
    """Return the header block of an answer that has no message; block: its trailers."""
    status = _OK if http_status == 200 else _EMPTY_TABLE + _field(":status", str(http_status))
    return b"".join((status, _CONTENT_TYPE, _ACCEPTED, block))


def _field(name: str, value: str | bytes) -> bytes:
    """Return a literal field that no table keeps (RFC 7541, 6.2.2)."""
    if isinstance(value, bytes):
        data = base64.b64encode(value).rstrip(b"=") if name.endswith("-bin") else value
    else:
        data = value.encode()
    return b"".join((b"\x00", _length(len(name)), name.encode(), _length(len(data)), data))


def _length(value: int) -> bytes:
    """Return an integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    parts, value = [0x7F], value - 0x7F
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


# Each block begins with an update to a table of no bytes: a client whose table is smaller than usual expects one.
_EMPTY_TABLE = b"\x20"
_OK = _EMPTY_TABLE + b"\x88"  # entry 8 of the static table is ":status: 200"
_CONTENT_TYPE = _field("content-type", "application/grpc")
_ACCEPTED = _field("grpc-accept-encoding", "identity, deflate, gzip")
_RESPONSE_HEAD = _OK + _CONTENT_TYPE + _ACCEPTED
